/*
 * Prints which instructions of a program are executed, by the program and by the processes that it forks, until each ends
 * or executes another program: offsets from where the program is loaded, hexadecimal, and when each was first executed, a
 * number, one a line, to the file named first.
 *
 *     executed FILE PROGRAM [ARGUMENT ...]
 *
 * One instruction at a time (ptrace(2), PTRACE_SINGLESTEP): a command of skeg takes about a minute. For scripts/text-order.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned long begin, end;
/* When each was first executed, counted from 1. */
static unsigned *executed, count;

/* The program's mappings: its file is the only one of a static program. */
static void find_program(pid_t pid, const char *program)
{
	char path[64], line[PATH_MAX + 128], real[PATH_MAX];
	FILE *maps;

	if (!realpath(program, real))
		err(1, "%s", program);
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		err(1, "%s", path);
	while (fgets(line, sizeof(line), maps)) {
		unsigned long from, to;

		if (!strstr(line, real) || sscanf(line, "%lx-%lx", &from, &to) != 2)
			continue;
		if (!begin)
			begin = from;
		end = to;
	}
	fclose(maps);
	executed = calloc(end - begin, sizeof(*executed));
	if (!executed)
		err(1, "%s: %lu bytes", real, end - begin);
}

static void step(pid_t pid, int status)
{
	int signal = WSTOPSIG(status), event = status >> 16;
	struct user_regs_struct registers;

	if (event == PTRACE_EVENT_EXEC) {
		ptrace(PTRACE_DETACH, pid, 0, 0);
		return;
	}
	if (!ptrace(PTRACE_GETREGS, pid, 0, &registers) && registers.rip >= begin && registers.rip < end &&
	    !executed[registers.rip - begin])
		executed[registers.rip - begin] = ++count;
	/* A new tracee stops with SIGSTOP, a step with SIGTRAP: neither is a signal that somebody sent. */
	if (signal == SIGTRAP || signal == SIGSTOP)
		signal = 0;
	ptrace(PTRACE_SINGLESTEP, pid, 0, signal);
}

int main(int argc, char **argv)
{
	const long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
	int status, result = 0;
	FILE *out;
	pid_t main_pid, pid;

	if (argc < 3)
		errx(2, "usage: executed FILE PROGRAM [ARGUMENT ...]");
	out = fopen(argv[1], "we");
	if (!out)
		err(1, "%s", argv[1]);
	main_pid = fork();
	if (main_pid < 0)
		err(1, "fork");
	if (main_pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execv(argv[2], argv + 2);
		err(127, "%s", argv[2]);
	}
	if (waitpid(main_pid, &status, 0) < 0 || !WIFSTOPPED(status))
		errx(1, "%s did not start", argv[2]);
	ptrace(PTRACE_SETOPTIONS, main_pid, 0, options);
	find_program(main_pid, argv[2]);
	step(main_pid, SIGTRAP << 8);
	while ((pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
		if (pid < 0)
			continue;
		if (WIFSTOPPED(status))
			step(pid, status);
		else if (pid == main_pid)
			result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	for (unsigned long at = 0; at < end - begin; at++)
		if (executed[at])
			fprintf(out, "%lx %u\n", at, executed[at]);
	return fclose(out) ? 1 : result;
}
