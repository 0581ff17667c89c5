#!/usr/bin/env python3
"""Compiles OCI seccomp profiles with libseccomp, for tests/seccomp.rs to compare with.

In (stdin): {"machine": libseccomp's token of the native architecture, "others": tokens of the machine's other ABIs with
their OCI names, "profiles": [...], "names": [...]}. Out: {"programs": for each profile the hex of its instructions, or
the errno (negative) of the rule that libseccomp refused, "numbers": for each ABI and name the number or null}. Rules are
added as runc adds them: without those that have the default action or an unknown name, and by single conditions where
two are on the same argument.
"""

import ctypes
import json
import sys
import tempfile

lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p

ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
OPERATORS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
UNKNOWN = -1  # __NR_SCMP_ERROR
OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE


class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def action(name, errno):
    return ACTIONS[name] | ((1 if errno is None else errno) if name in WITH_ERRNO else 0)


def comparison(arg):
    operator = OPERATORS.index(arg["op"].removeprefix("SCMP_CMP_")) + 1
    return Comparison(arg["index"], operator, arg["value"], arg.get("valueTwo", 0))


def add_rules(context, rule, default):
    value = action(rule["action"], rule.get("errnoRet"))
    if value == default:
        return 0
    args = [comparison(arg) for arg in rule.get("args", [])]
    indices = {arg.arg for arg in args}
    together = [args] if len(indices) == len(args) else [[arg] for arg in args]
    for name in rule["names"]:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number == UNKNOWN:
            continue
        for some in together:
            array = (Comparison * len(some))(*some)
            error = lib.seccomp_rule_add_array(context, ctypes.c_uint32(value), number, len(some), array)
            if error:
                return error
    return 0


def compile_profile(machine, others, profile):
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(default)))
    native = lib.seccomp_arch_native() & 0xFFFFFFFF
    if native != machine:
        lib.seccomp_arch_add(context, ctypes.c_uint32(machine))
        lib.seccomp_arch_remove(context, ctypes.c_uint32(native))
    for name, token in others:
        if name in profile.get("architectures", []):
            lib.seccomp_arch_add(context, ctypes.c_uint32(token))
    # A binary tree, as runc asks for with more than 32 rules: the default list of 2.5.4 compares the architecture instead of
    # the number where the first call of the list lacks in an ABI.
    lib.seccomp_attr_set(context, OPTIMIZE, 2)
    for rule in profile.get("syscalls", []):
        error = add_rules(context, rule, default)
        if error:
            lib.seccomp_release(context)
            return error
    with tempfile.TemporaryFile() as file:
        lib.seccomp_export_bpf(context, file.fileno())
        lib.seccomp_release(context)
        file.seek(0)
        return file.read().hex()


def number(token, name):
    found = lib.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(token), name.encode())
    return None if found < 0 else found


request = json.load(sys.stdin)
tokens = [request["machine"], *(token for _, token in request["others"])]
json.dump(
    {
        "programs": [compile_profile(request["machine"], request["others"], one) for one in request["profiles"]],
        "numbers": [[number(token, name) for name in request["names"]] for token in tokens],
    },
    sys.stdout,
)
