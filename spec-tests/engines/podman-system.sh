# shellcheck shell=bash disable=SC2016 # what stands in single quotes is for the shell in the container
# podman's own system tests, from Debian's source package: the files that concern the runtime. Each case is compared with what is
# expected in expected/podman-system/NAME.txt: `pass CASE`, `skip CASE`, or `fail CASE  # why it cannot pass`.
#
#   ENGINES_LABELS=runc  runs them with the reference instead of the runtime under test, or after it ("skeg runc"); crun, last of all
#   ENGINES_FILES=...    names of test files to run instead of all
#   ENGINES_CASES=REGEX  the cases with such names alone
#   ENGINES_UPDATE=1     writes what was found as what is expected, and keeps the reasons
#   ENGINES_KEEP=DIR     keeps the results and the suite's output
#
# crun 1.8 refuses hybrid cgroups, and on pure cgroup v2 it raises RLIMIT_MEMLOCK for its device program and ends where it may not (without
# CAP_SYS_RESOURCE): it gets to see the v1 hierarchies alone. Of the cases that skeg fails it passes none there.
#
# Nothing of the suite is changed. What it would download is made here: its image, of busybox, and a registry on loopback in
# the place of its own with the second image.

# Files that run containers. Left out is what only moves images, volumes, names and texts about (001 to 020, 037, 060, 065, 110 to
# 125, 140, 150, 320 to 330, 600, 610, 750, 800), needs a systemd (250, 255) or podman's API service and ssh (251, 271, 272, 900).
PODMAN_SYSTEM_FILES='030-run 032-sig-proxy 035-logs 040-ps 045-start 050-stop 055-rm 070-build 075-exec
    080-pause 090-events 130-kill 160-volumes 170-run-userns 180-blkio 190-run-ipcns 200-pod 220-healthcheck 260-sdnotify
    270-socket-activation 280-update 400-unprivileged-access 410-selinux 420-cgroups 450-interactive 500-networking
    520-checkpoint 700-play'

# The configuration of podman with the runtime $2 under the name $1.
podman_system_configure() {
    local conf=$ENGINES_ROOT/system-conf
    mkdir -p "$conf" "$ENGINES_ROOT/system-$1"
    cat >"$conf/containers.conf" <<CONF
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "$1"
runtime_supports_json = ["skeg", "runc", "crun"]
runtime_supports_nocgroup = ["skeg", "crun"]
[engine.runtimes]
$1 = ["$2"]
[network]
network_config_dir = "$ENGINES_ROOT/system-$1/cni"
CONF
    cat >"$conf/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$ENGINES_ROOT/system-$1/root"
runroot = "/run/containers/storage-$1"
CONF
    echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$conf/policy.json"
    cat >"$conf/registries.conf" <<CONF
[[registry]]
prefix = "$SYSTEM_REGISTRY"
location = "127.0.0.1:5055"
insecure = true
CONF
    mountpoint -q /etc/containers || { mkdir -p /etc/containers; mount --bind "$conf" /etc/containers; }
    # Which networks there are is remembered there.
    mkdir -p /run/cni /run/containers
}

# The image of the tests as their build-testimage describes it, on busybox.
podman_system_image() {
    local rootfs=$ENGINES_ROOT/system-rootfs stamp=20220615
    cp -a "$ENGINES_ROOT/rootfs" "$rootfs"
    mkdir -p "$rootfs"/{home/podman,var/lib,run,mnt,srv,usr/bin,var/tmp}
    # Debian's busybox has no printenv, and its one program is Alpine's two.
    printf '#!/bin/sh\n[ $# -gt 0 ] || set -- ""\nfor name; do tr "\\0" "\\n" </proc/$$/environ | sed -n "s/^${name:+$name=}//p"; done\n' >"$rootfs/bin/printenv"
    chmod 0755 "$rootfs/bin/printenv"
    ln -s busybox "$rootfs/bin/busybox-extras"
    ln -s /proc/mounts "$rootfs/etc/mtab"
    echo $stamp >"$rootfs/home/podman/testimage-id"
    touch --date=@1600000000 "$rootfs/home/podman/testimage-id"
    printf '#!/bin/sh\necho Confirmed: testimage pause invoked as $0\nwhile :; do\n    sleep 0.1\ndone\n' >"$rootfs/home/podman/pause"
    chmod 0755 "$rootfs/home/podman/pause"
    printf 'root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/sbin/nologin\nmail:x:8:12:mail:/var/mail:/sbin/nologin\nguest:x:405:100:guest:/dev/null:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n' >"$rootfs/etc/passwd"
    printf 'root:x:0:root\nbin:x:1:root,bin,daemon\nmail:x:12:mail\nusers:x:100:games\nnobody:x:65534:\n' >"$rootfs/etc/group"
    printf 'NAME="Alpine Linux"\nID=alpine\n' >"$rootfs/etc/os-release"
    : >"$rootfs/etc/hosts"
    tar -C "$rootfs" -cf "$ENGINES_ROOT/system-image.tar" .
    rm -rf "$rootfs"
}

# Puts both images where the tests look for them.
podman_system_images() {
    local image
    podman import -q --change 'CMD ["/bin/echo", "This container is intended for podman CI testing"]' --change 'WORKDIR /home/podman' \
        --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        --change 'LABEL created_by=test/system/build-testimage' --change 'LABEL created_at=2022-06-15T00:00:00Z' \
        "$ENGINES_ROOT/system-image.tar" "$SYSTEM_IMAGE" >/dev/null
    podman import -q --change 'CMD ["sh"]' "$IMAGE_TAR" "$SYSTEM_SECOND_IMAGE" >/dev/null
    for image in "$SYSTEM_IMAGE" "$SYSTEM_SECOND_IMAGE"; do
        podman push -q --tls-verify=false "$image" "127.0.0.1:5055/${image#*/}"
    done
    podman rmi -f "$SYSTEM_SECOND_IMAGE" >/dev/null
}

# Runs the files under the runtime $2 with the name $1; the results are lines `pass|fail|skip FILE: NAME` in $ENGINES_ROOT/system-$1.txt, the whole
# output lies beside them.
podman_system_run() {
    local label=$1 file
    : >"$ENGINES_ROOT/system-$label.txt"
    for file in ${ENGINES_FILES:-$PODMAN_SYSTEM_FILES}; do
        (cd "$SYSTEM_SOURCE" && PODMAN="podman --runtime $2" PODMAN_TIMEOUT=60 timeout -k 10 900 bats --tap ${ENGINES_CASES:+--filter "$ENGINES_CASES"} "test/system/$file.bats") \
            >"$ENGINES_ROOT/system-$label-$file.tap" 2>&1 </dev/null || true
        sed -nE -e "s/^ok [0-9]+ (.*) # skip.*/skip $file: \1/p; t" -e "s/^ok [0-9]+ /pass $file: /p" \
            -e "s/^not ok [0-9]+ /fail $file: /p" "$ENGINES_ROOT/system-$label-$file.tap" >>"$ENGINES_ROOT/system-$label.txt"
        echo "     $file under $label: $(grep -c '^ok' "$ENGINES_ROOT/system-$label-$file.tap") of $(grep -cE '^(not )?ok' "$ENGINES_ROOT/system-$label-$file.tap")"
    done
}

# Compares the results of $1 with what is expected of it and says what differs: false where that is worse.
podman_system_compare() {
    local label=$1 expected=$ENGINES_DIR/expected/podman-system/$1.txt found=$ENGINES_ROOT/system-$1.txt
    # Nothing is expected of one that has no list yet.
    [ -e "$expected" ] || [ -n "${ENGINES_UPDATE:-}" ] || expected=/dev/null
    if [ -n "${ENGINES_UPDATE:-}" ]; then
        touch "$expected"
        awk 'known { if (match($0, /  # /)) { why[substr($0, 6, RSTART - 6)] = substr($0, RSTART) } next }
            { print $0 ($1 == "pass" ? "" : why[substr($0, 6)]) }' known=1 "$expected" known=0 "$found" | LC_ALL=C.UTF-8 sort -k2 >"$expected.new"
        mv "$expected.new" "$expected"
    fi
    awk 'function worse(text) { print "     worse: " text; bad = 1 }
        known { sub(/  # .*/, ""); want[substr($0, 6)] = $1; next }
        { result = $1; name = substr($0, 6); file = $2; files[file]; seen[name]
          if (result == want[name]) next
          if (!(name in want)) { if (result == "fail") worse($0 ", a new case"); next }
          if (result == "fail" || want[name] == "pass") worse($0 ", expected " want[name])
          else print "     better: " $0 ", expected " want[name] }
        END { if (!some) for (name in want) { file = name; sub(/ .*/, "", file); if (file in files && !(name in seen)) worse("no result: " name) }
              exit bad }' some="${ENGINES_CASES:-}" known=1 "$expected" known=0 "$found"
}

podman_system_steps() {
    local label runtime result begin
    SYSTEM_SOURCE=${SKEG_CACHE:-$ENGINES_DIR/../../.cache}/libpod
    SYSTEM_REGISTRY=$(cd "$SYSTEM_SOURCE/test/system" && sed -n 's/^PODMAN_TEST_IMAGE_REGISTRY=.*:-"\(.*\)"}$/\1/p' helpers.bash)
    SYSTEM_IMAGE=$SYSTEM_REGISTRY/libpod/testimage:$(sed -n 's/^PODMAN_TEST_IMAGE_TAG=.*:-"\(.*\)"}$/\1/p' "$SYSTEM_SOURCE/test/system/helpers.bash")
    SYSTEM_SECOND_IMAGE=${SYSTEM_IMAGE%:*}:$(sed -n 's/^PODMAN_NONLOCAL_IMAGE_TAG=.*:-"\(.*\)"}$/\1/p' "$SYSTEM_SOURCE/test/system/helpers.bash")
    registry 5055
    podman_system_image
    for label in ${ENGINES_LABELS:-skeg}; do
        runtime=$ENGINES_ROOT/bin/skeg begin=$SECONDS
        case $label in
            runc) runtime=$REFERENCE ;;
            crun) runtime=$(command -v crun) && awk '$3 == "cgroup2" { print $2 }' /proc/mounts | sort -u | xargs -r umount ;;
        esac
        podman_system_configure "$label" "$runtime"
        podman_system_images
        podman_system_run "$label" "$runtime"
        result=
        podman_system_compare "$label" || result=' worse than expected'
        verdict "podman's system tests under $label: $(grep -c ^pass "$ENGINES_ROOT/system-$label.txt") pass, $(
            grep -c ^skip "$ENGINES_ROOT/system-$label.txt") are skipped, $(grep -c ^fail "$ENGINES_ROOT/system-$label.txt") fail as expected" \
            "$((SECONDS - begin)) s" "$result"
        [ -z "${ENGINES_KEEP:-}" ] || { mkdir -p "$ENGINES_KEEP"; cp "$ENGINES_ROOT"/system-"$label"*.{txt,tap} "$ENGINES_KEEP/"; }
    done
}
