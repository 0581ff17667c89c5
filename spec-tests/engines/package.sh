# shellcheck shell=bash disable=SC2016 # what stands in single quotes is for the shell in the root
# The Debian package in clean roots, and the README followed there word for word. scripts/test-deb makes the roots.

# Mounts the root $1 at $ENGINES_ROOT/$2 for a chroot; what is written goes to memory.
package_root() {
    local lower=$1 root=$ENGINES_ROOT/$2 dir
    mkdir -p "$root" "$ENGINES_ROOT/$2-writes"
    mount -t tmpfs tmpfs "$ENGINES_ROOT/$2-writes"
    mkdir "$ENGINES_ROOT/$2-writes"/{upper,work}
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$ENGINES_ROOT/$2-writes/upper,workdir=$ENGINES_ROOT/$2-writes/work" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    # Engines lay overlays of their own here, which no overlay can carry.
    for dir in run tmp var/lib/docker var/lib/containers var/lib/containerd; do
        mkdir -p "$root/$dir"
        mount -t tmpfs tmpfs "$root/$dir"
    done
    install -m 0644 "$PACKAGE" "$root/tmp/skeg.deb"
    mkdir "$root/tmp/top"
    mount --bind "$ENGINES_DIR/../.." "$root/tmp/top"
}

# A shell in the root $1 that reads from standard input, in /root, with the environment of a login.
package_in() {
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=xterm LC_ALL=C.UTF-8 \
        chroot "$ENGINES_ROOT/$1" sh -c "cd /root && $2"
}

# package_check NAME FUNCTION...: one line; what the function says follows where it fails.
package_check() {
    local name=$1 begin=$EPOCHREALTIME status=0 why=
    shift
    timeout -k 5 300 bash -c "$*" >"$STEP.package" 2>&1 </dev/null || status=$?
    [ "$status" = 0 ] || why=" status $status;"
    verdict "$name" "$(awk "BEGIN { printf \"%.2f\", $EPOCHREALTIME - $begin }") s" "$why"
    [ "$status" = 0 ] || tail -n 25 "$STEP.package" | sed 's/^/     /'
}

package_bare() {
    set -e
    package_in bare 'dpkg -i /tmp/skeg.deb'
    [ "$(package_in bare 'skeg --version' | head -n 1)" = "skeg version $(dpkg-deb -f "$PACKAGE" Version)" ]
    package_in bare 'containerd-shim-skeg-v2 -v'
    install -D -m 0755 /bin/busybox "$ENGINES_ROOT/bare/root/box/rootfs/bin/sh"
    package_in bare 'skeg spec -b box'
    sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"sh", "-c", "echo from a container; exit 3"/' "$ENGINES_ROOT/bare/root/box/config.json"
    status=0
    said=$(package_in bare 'skeg run -b box box1') || status=$?
    echo "$said, $status"
    [ "$said, $status" = 'from a container, 3' ]
}
package_contents() {
    set -e
    package_in bare 'for command in $(skeg --help | sed -n "/^COMMANDS/,/^$/s/^   \([a-z]*\) .*/\1/p"); do test -s "/usr/share/man/man8/skeg-$command.8.gz"; done'
    for file in man/man8/skeg.8.gz man/man8/containerd-shim-skeg-v2.8.gz bash-completion/completions/skeg zsh/vendor-completions/_skeg \
        fish/vendor_completions.d/skeg.fish doc/skeg/{copyright,README.md,docs/troubleshooting.md} \
        doc/skeg/examples/{containers.conf.d/skeg.conf,crio/skeg.conf,docker/daemon.json,kubernetes/runtimeclass.yaml}; do
        test -s "$ENGINES_ROOT/bare/usr/share/$file"
    done
    package_in bare 'dpkg --verify skeg'
}
# The files for engines say what they are meant to say to a parser of their format.
package_examples() {
    python3 - "$ENGINES_ROOT/bare/usr/share/doc/skeg/examples" <<'PYTHON'
import json, pathlib, sys, tomllib
top = pathlib.Path(sys.argv[1])
read = lambda path: tomllib.loads((top / path).read_text())
crio = read("crio/skeg.conf")["crio"]["runtime"]
assert {name: entry["runtime_type"] for name, entry in crio["runtimes"].items()} == {"skeg": "oci", "skeg-shim": "vm"}, crio
# CRI-O takes a shim only by its own name (runtime_path of a "vm").
assert crio["runtimes"]["skeg-shim"]["runtime_path"].endswith("/containerd-shim-skeg-v2")
containerd = read("containerd/config.toml")["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]["skeg"]
assert containerd["runtime_type"] == "io.containerd.skeg.v2", containerd
assert read("containerd/skeg.toml")["BinaryName"] == "skeg"
engine = read("containers.conf.d/skeg.conf")["engine"]
assert all("skeg" in engine[key] for key in ["runtime_supports_json", "runtime_supports_nocgroup", "runtimes"]), engine
assert json.loads((top / "docker/daemon.json").read_text())["runtimes"]["skeg"]["path"] == "skeg"
PYTHON
    grep -qx 'handler: skeg' "$ENGINES_ROOT/bare/usr/share/doc/skeg/examples/kubernetes/runtimeclass.yaml"
}
package_removed() {
    set -e
    package_in bare 'dpkg -P skeg'
    [ -z "$(package_in bare 'find / -xdev -name "*skeg*" -not -path "/tmp/*" -not -path "/root/*" -not -path "/run/*" -not -path "/var/*"')" ]
}
package_installed() { package_in package 'dpkg -i /tmp/skeg.deb'; }
package_manual() {
    package_in package 'gunzip -c /usr/share/man/man8/skeg.8.gz | mandoc -Tascii | grep -q "low-level OCI container runtime"' &&
        package_in package '/tmp/top/scripts/test-manual /tmp/top/bin /usr/bin/skeg'
}

# The part of the README under the heading $1, as a shell script: blocks of shell as they stand, others written to the file that
# the line before names.
readme_part() {
    awk -v heading="$1" '
        /^#/ && !inside { on = ($0 == heading) }
        on && /^```/ && !inside { inside = 1; file = named; named = ""; skip = (file == "" && $0 != "```sh")
            if (file != "") { print "mkdir -p $(dirname " file ")"; print "cat >>" file " <<\"README\"" }
            next }
        on && /^```/ { inside = 0; if (file != "") print "README"; file = ""; next }
        on && inside { if (!skip) print; next }
        on && match($0, /`\/etc\/[^`]*`/) { named = substr($0, RSTART + 1, RLENGTH - 2) }' "${README:-$ENGINES_DIR/../../README.md}"
}

# Follows that part in the root of the engines; its output has to have each of the lines.
readme_follow() {
    local heading=$1 line
    shift
    readme_part "$heading" >"$ENGINES_ROOT/package/tmp/part"
    [ -s "$ENGINES_ROOT/package/tmp/part" ] || { echo "no part $heading"; return 1; }
    package_in package 'sh -eux /tmp/part' >"$ENGINES_ROOT/readme.out" 2>&1 || { cat "$ENGINES_ROOT/readme.out"; return 1; }
    cat "$ENGINES_ROOT/readme.out"
    for line; do
        grep -qxF "$line" "$ENGINES_ROOT/readme.out" || { echo "not said: $line"; return 1; }
    done
}
readme_box() {
    # At a terminal, as the person who types it; the shell that it runs is told to end.
    readme_part '# skeg' | sed 's/^skeg run .*/echo "echo in the box; exit" | script -qefc "&" \/dev\/null/' >"$ENGINES_ROOT/package/tmp/part"
    package_in package 'sh -eux /tmp/part' | tee "$ENGINES_ROOT/readme.out"
    tr -d '\r' <"$ENGINES_ROOT/readme.out" | grep -qx 'in the box'
}
readme_docker() { readme_follow '### Docker Engine' 'hello from Docker'; }
readme_docker_shim() {
    package_in package 'docker run --rm --runtime io.containerd.skeg.v2 box sh -c "echo hello by type"' | tee /dev/stderr | grep -qx 'hello by type'
}
readme_containerd() {
    package_in package 'systemctl start containerd' &&
        readme_follow '### containerd' 'hello from containerd' 'hello by way of the shim of runc' &&
        package_in package 'systemctl restart containerd; containerd config dump' | grep -A 40 'containerd.runtimes.skeg\]' | grep -q 'io.containerd.skeg.v2'
}
# containerd with the two example files as they stand, and a pod's worth of options from the second.
example_containerd() {
    package_in package 'systemctl stop containerd; cp /usr/share/doc/skeg/examples/containerd/*.toml /etc/containerd/ &&
        sed -i "s#^Root = .*#Root = \"/run/example\"#" /etc/containerd/skeg.toml && systemctl start containerd &&
        ctr run -d --runtime io.containerd.skeg.v2 --runtime-config-path /etc/containerd/skeg.toml --rootfs /root/box/rootfs ex /bin/sh -c "while :; do :; done" &&
        skeg --root /run/example/default list -q; ctr task kill -s KILL ex; sleep 0.5; ctr task rm ex; ctr container rm ex' | tee /dev/stderr | grep -qx ex
}
readme_podman() { readme_follow '### podman and buildah' 'hello from podman' 'hello from buildah'; }
# Newer buildahs raise RLIMIT_NOFILE over the hard limit of the machine, which takes CAP_SYS_RESOURCE under any runtime.
readme_podman_alone() {
    sed -i '/^buildah run/d' "$ENGINES_ROOT/package/tmp/top-readme"
    README=$ENGINES_ROOT/package/tmp/top-readme readme_follow '### podman and buildah' 'hello from podman'
}
readme_end() { package_in package 'systemctl stop docker; systemctl stop containerd'; }

# A chroot has no systemd: a systemctl of a few lines starts and stops the two daemons, as Debian's units do.
package_systemctl() {
    cat >"$ENGINES_ROOT/package/usr/local/bin/systemctl" <<'SYSTEMCTL'
#!/bin/sh
case $2 in
    docker) command='dockerd' ready='docker version' ;;
    containerd) command='containerd' ready='ctr version' ;;
esac
if [ "$1" != start ] && [ -f "/run/$2.started" ]; then
    kill "$(cat "/run/$2.started")"
    while kill -0 "$(cat "/run/$2.started")" 2>/dev/null; do sleep 0.1; done
    rm "/run/$2.started"
fi
[ "$1" != stop ] || exit 0
setsid $command >"/var/log/$2.log" 2>&1 </dev/null &
echo $! >"/run/$2.started"
for _ in $(seq 100); do
    $ready >/dev/null 2>&1 && exit 0
    sleep 0.1
done
tail -n 5 "/var/log/$2.log"
exit 1
SYSTEMCTL
    chmod 0755 "$ENGINES_ROOT/package/usr/local/bin/systemctl"
}

package_steps() {
    : "${PACKAGE:?scripts/test-deb calls this}" "${BARE_ROOT:?}" "${ENGINES_PACKAGE_ROOT:?}"
    package_root "$BARE_ROOT" bare
    package_root "$ENGINES_PACKAGE_ROOT" package
    package_systemctl
    # shellcheck disable=SC2046 # a list of names
    export -f $(compgen -A function)
    package_check "$PACKAGE_RELEASE, package: installs in a minimal root and runs a bundle there" package_bare
    package_check "$PACKAGE_RELEASE, package: programs, pages, completions, examples" package_contents
    package_check "$PACKAGE_RELEASE, package: examples for each engine" package_examples
    package_check "$PACKAGE_RELEASE, package: leaves nothing when it is removed" package_removed
    package_check "$PACKAGE_RELEASE, package: installs beside the engines" package_installed
    package_check "$PACKAGE_RELEASE, package: man pages and completions, read by their programs" package_manual
    package_check "$PACKAGE_RELEASE, README: by hand" readme_box
    package_check "$PACKAGE_RELEASE, README: Docker Engine" readme_docker
    # Docker takes shims by type since 23.
    if ! package_in package 'docker version --format "{{.Server.Version}}"' | grep -qE '^(1.|2[0-2])\.'; then
        package_check "$PACKAGE_RELEASE, README: Docker Engine with skeg's shim" readme_docker_shim
    fi
    package_check "$PACKAGE_RELEASE, README: containerd" readme_containerd
    package_check "$PACKAGE_RELEASE, examples: containerd" example_containerd
    if has_all_capabilities || [ "$PACKAGE_RELEASE" = bookworm ]; then
        package_check "$PACKAGE_RELEASE, README: podman and buildah" readme_podman
    else
        cp "$ENGINES_DIR/../../README.md" "$ENGINES_ROOT/package/tmp/top-readme"
        package_check "$PACKAGE_RELEASE, README: podman (buildah run takes CAP_SYS_RESOURCE, which this machine lacks)" readme_podman_alone
    fi
    package_check "$PACKAGE_RELEASE, README: the daemons end" readme_end
}
