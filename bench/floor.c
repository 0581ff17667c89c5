/* The lower bound for `run` of /bin/true: the kernel calls that the default config cannot do without, with no runtime around
 * them, in the cheapest order known. No config is read, nothing is checked, nothing is recorded.
 *
 *     floor BUNDLE ID
 *
 * What it makes: namespaces (PID, network, IPC, UTS, mount, and a cgroup namespace), a cgroup in every hierarchy that is
 * mounted (v1 entered by writing 0 to `tasks`, v2 by CLONE_INTO_CGROUP where it is the only one), its device rules (v1's list,
 * or a program for v2 in the form that the kernel verifies soonest), the eight mounts of the default config, its devices,
 * masked and read-only paths, the loopback interface up, pivot_root, no_new_privs and capabilities, /bin/true. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call) do { if ((call) < 0) { perror(#call); _exit(1); } } while (0)

static const char *const v1[] = { "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "systemd" };
#define V1 (sizeof v1 / sizeof *v1)
static struct { const char *hierarchy; char path[192]; } group[V1 + 1];
static size_t groups;
static int pure_v2;

/* What has to be written before a process may enter a cpuset. */
static void copy(const char *parent, const char *child, const char *name) {
    char path[512], value[256];
    snprintf(path, sizeof path, "%s/%s", parent, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t length = read(fd, value, sizeof value);
    close(fd);
    snprintf(path, sizeof path, "%s/%s", child, name);
    if ((fd = open(path, O_WRONLY | O_CLOEXEC)) < 0) return;
    if (length > 0 && write(fd, value, length) < 0) perror(path);
    close(fd);
}

/* What the config denies, and the devices that every container has. */
static void devices_v1(const char *path) {
    static const char *const allowed[] = {
        "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:8 rwm", "c 1:7 rwm", "c 5:0 rwm", "c 1:5 rwm", "c 1:9 rwm", "c 136:* rwm", "c 5:2 rwm",
    };
    char file[256];
    snprintf(file, sizeof file, "%s/devices.deny", path);
    int fd = open(file, O_WRONLY | O_CLOEXEC);
    CHECK(write(fd, "a", 1));
    close(fd);
    snprintf(file, sizeof file, "%s/devices.allow", path);
    CHECK(fd = open(file, O_WRONLY | O_CLOEXEC));
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) CHECK(write(fd, allowed[i], strlen(allowed[i])));
    close(fd);
}

static void devices_v2(int group_fd) {
    enum { R0, R1, R2, R3, R4, R5 };
#define INSN(c, d, s, o, i) { .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) }
#define LOAD(d, o) INSN(BPF_LDX | BPF_MEM | BPF_W, d, R1, o, 0)
#define ALLOW(r, n, o) INSN(BPF_JMP | BPF_JEQ | BPF_K, r, 0, o, n)
    /* The numbers as one, with a mark above them for block devices; any device may be made. */
    static const struct bpf_insn program[] = {
        LOAD(R2, 0), LOAD(R3, 4), LOAD(R4, 8),
        INSN(BPF_ALU64 | BPF_LSH | BPF_K, R3, 0, 0, 20), INSN(BPF_ALU64 | BPF_OR | BPF_X, R3, R4, 0, 0),
        INSN(BPF_ALU64 | BPF_MOV | BPF_X, R5, R2, 0, 0), INSN(BPF_ALU64 | BPF_AND | BPF_K, R5, 0, 0, BPF_DEVCG_DEV_BLOCK),
        INSN(BPF_ALU64 | BPF_LSH | BPF_K, R5, 0, 0, 60), INSN(BPF_ALU64 | BPF_OR | BPF_X, R3, R5, 0, 0),
        ALLOW(R3, 1 << 20 | 3, 12), ALLOW(R3, 1 << 20 | 8, 11), ALLOW(R3, 1 << 20 | 7, 10), ALLOW(R3, 5 << 20, 9),
        ALLOW(R3, 1 << 20 | 5, 8), ALLOW(R3, 1 << 20 | 9, 7), ALLOW(R3, 5 << 20 | 2, 6),
        INSN(BPF_ALU64 | BPF_RSH | BPF_K, R3, 0, 0, 20), ALLOW(R3, 136, 4),
        INSN(BPF_ALU64 | BPF_RSH | BPF_K, R2, 0, 0, 16), ALLOW(R2, BPF_DEVCG_ACC_MKNOD, 2),
        INSN(BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, 0), INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
        INSN(BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, 1), INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    };
    union bpf_attr load = {
        .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insns = (uintptr_t)program, .insn_cnt = sizeof program / sizeof *program,
        .license = (uintptr_t)"",
    };
    int fd = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
    CHECK(fd);
    union bpf_attr attach = { .target_fd = group_fd, .attach_bpf_fd = fd, .attach_type = BPF_CGROUP_DEVICE, .attach_flags = BPF_F_ALLOW_MULTI };
    CHECK(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach));
    close(fd);
}

static void make_groups(const char *id) {
    struct stat status;
    pure_v2 = stat("/sys/fs/cgroup/cgroup.controllers", &status) == 0;
    if (pure_v2) {
        snprintf(group[0].path, sizeof group[0].path, "/sys/fs/cgroup/%s", id);
        CHECK(mkdir(group[groups++].path, 0755));
        return;
    }
    for (size_t i = 0; i <= V1; i++) {
        const char *name = i < V1 ? v1[i] : "unified";
        char parent[64], *path = group[groups].path;
        snprintf(parent, sizeof parent, "/sys/fs/cgroup/%s", name);
        snprintf(path, sizeof group[0].path, "%s/%s", parent, id);
        if (mkdir(path, 0755) < 0) continue;
        if (strcmp(name, "cpuset") == 0) {
            copy(parent, path, "cpuset.cpus");
            copy(parent, path, "cpuset.mems");
        }
        if (strcmp(name, "devices") == 0) devices_v1(path);
        group[groups++].hierarchy = name;
    }
}

static void file_system(const char *type, const char *target, const char *key, const char *value, unsigned attributes) {
    int context = syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
    CHECK(context);
    if (key) CHECK(syscall(SYS_fsconfig, context, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, key, value, 0));
    CHECK(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    int mount = syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes);
    CHECK(mount);
    CHECK(syscall(SYS_move_mount, mount, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH));
    close(mount);
    close(context);
}

static void bind_mount(const char *source, const char *target, unsigned attributes) {
    int tree = syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0) return;
    struct mount_attr change = { .attr_set = attributes };
    if (attributes) CHECK(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &change, sizeof change));
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0 && errno != ENOENT) _exit(2);
    close(tree);
}

static void make_root(const char *bundle) {
    static const struct { const char *name; unsigned minor, major; } devices[] = {
        { "null", 3, 1 }, { "zero", 5, 1 }, { "full", 7, 1 }, { "random", 8, 1 }, { "urandom", 9, 1 }, { "tty", 0, 5 },
    };
    static const char *const links[][2] = {
        { "/proc/self/fd", "dev/fd" }, { "/proc/self/fd/0", "dev/stdin" }, { "/proc/self/fd/1", "dev/stdout" },
        { "/proc/self/fd/2", "dev/stderr" }, { "pts/ptmx", "dev/ptmx" },
    };
    static const char *const masked[] = {
        "proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list", "proc/timer_stats",
        "proc/sched_debug", "sys/firmware", "proc/scsi",
    };
    static const char *const readonly[] = { "proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger" };
    static const unsigned strict = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    char root[512];
    snprintf(root, sizeof root, "%s/rootfs", bundle);
    CHECK(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
    bind_mount(root, root, 0);
    CHECK(chdir(root));
    for (const char *const *dir = (const char *const[]){ "proc", "dev", "sys", NULL }; *dir; dir++) mkdir(*dir, 0755);
    file_system("proc", "proc", NULL, NULL, 0);
    file_system("tmpfs", "dev", "mode", "755", MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME);
    for (const char *const *dir = (const char *const[]){ "dev/pts", "dev/shm", "dev/mqueue", NULL }; *dir; dir++)
        CHECK(mkdir(*dir, 0755));
    file_system("devpts", "dev/pts", "newinstance", NULL, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
    file_system("tmpfs", "dev/shm", "mode", "1777", strict);
    file_system("mqueue", "dev/mqueue", NULL, NULL, strict);
    file_system("sysfs", "sys", NULL, NULL, strict | MOUNT_ATTR_RDONLY);
    if (pure_v2) {
        file_system("cgroup2", "sys/fs/cgroup", NULL, NULL, strict | MOUNT_ATTR_RDONLY);
    } else {
        file_system("tmpfs", "sys/fs/cgroup", "mode", "755", strict);
        for (size_t i = 0; i < groups; i++) {
            char target[64];
            snprintf(target, sizeof target, "sys/fs/cgroup/%s", group[i].hierarchy);
            CHECK(mkdir(target, 0755));
            bind_mount(group[i].path, target, strict | MOUNT_ATTR_RDONLY);
        }
    }
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        char path[64];
        snprintf(path, sizeof path, "dev/%s", devices[i].name);
        CHECK(mknod(path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)));
    }
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) CHECK(symlink(links[i][0], links[i][1]));
    CHECK(syscall(SYS_pivot_root, ".", "."));
    CHECK(umount2(".", MNT_DETACH));
    CHECK(chdir("/"));
    for (size_t i = 0; i < sizeof readonly / sizeof *readonly; i++) bind_mount(readonly[i], readonly[i], MOUNT_ATTR_RDONLY);
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        struct stat status;
        if (stat(masked[i], &status) < 0) continue;
        if (S_ISDIR(status.st_mode)) file_system("tmpfs", masked[i], NULL, NULL, MOUNT_ATTR_RDONLY);
        else bind_mount("dev/null", masked[i], 0);
    }
}

/* Every runtime leaves it so in a network namespace that it makes. */
static void loopback_up(void) {
    struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK(fd);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    make_groups(argv[2]);
    int v2 = pure_v2 ? open(group[0].path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (pure_v2) devices_v2(v2);
    struct clone_args args = {
        .flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_VFORK | (pure_v2 ? CLONE_INTO_CGROUP : 0),
        .exit_signal = SIGCHLD, .cgroup = pure_v2 ? v2 : 0,
    };
    pid_t child = syscall(SYS_clone3, &args, sizeof args);
    CHECK(child);
    if (child == 0) {
        for (size_t i = 0; i < groups && !pure_v2; i++) {
            char path[256];
            int is_v2 = strcmp(group[i].hierarchy, "unified") == 0;
            snprintf(path, sizeof path, "%s/%s", group[i].path, is_v2 ? "cgroup.procs" : "tasks");
            int tasks = open(path, O_WRONLY | O_CLOEXEC);
            /* v2 of a hybrid host is entered at the clone by skeg; here its directory is made and that is all. */
            if (!is_v2 && (tasks < 0 || write(tasks, "0", 1) < 0)) perror(path);
            close(tasks);
        }
        CHECK(unshare(CLONE_NEWCGROUP));
        loopback_up();
        make_root(argv[1]);
        CHECK(sethostname("floor", 5));
        for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
            if (capability != CAP_KILL && capability != CAP_AUDIT_WRITE && capability != CAP_NET_BIND_SERVICE)
                prctl(PR_CAPBSET_DROP, capability);
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        unsigned kept = 1 << CAP_KILL | 1 << CAP_AUDIT_WRITE | 1 << CAP_NET_BIND_SERVICE;
        struct __user_cap_data_struct data[2] = { { kept, kept, 0 } };
        CHECK(syscall(SYS_capset, &header, data));
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        execve("/bin/true", (char *[]){ "true", NULL }, (char *[]){ NULL });
        _exit(127);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0));
    for (size_t i = groups; i-- > 0;) CHECK(rmdir(group[i].path));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
