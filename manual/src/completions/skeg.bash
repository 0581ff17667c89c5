# bash completion for skeg. @FIRST@
# shellcheck shell=bash

# The flags of command $1 (the global ones where it is empty) in the caller's flags, with_value and container.
_skeg_table() {
    case $1 in
        @TABLE@
        *) flags='' with_value='' container=false ;;
    esac
}

# What follows flag $2 of command $1, in the caller's action: options of compgen.
_skeg_values() {
    case $1:$2 in
        @VALUES@
        *) action=() ;;
    esac
}

_skeg() {
    local command='' flags with_value container action root=() arguments=0 current flag='' words=() word index
    # An equals sign between flag and value is a word of its own to bash.
    for ((index = 1; index <= COMP_CWORD; index++)); do
        [[ ${COMP_WORDS[index]} = '=' ]] || words+=("${COMP_WORDS[index]}")
    done
    [[ ${COMP_WORDS[COMP_CWORD]} != '=' ]] || words+=('')
    current=${words[-1]}
    unset 'words[-1]'
    _skeg_table ''
    for word in "${words[@]}"; do
        if [[ -n $flag ]]; then
            [[ $flag != --root ]] || root=(--root "$word")
            flag=''
        elif [[ $word = -* && $with_value = *" $word "* ]]; then
            flag=$word
        elif [[ $word = -* ]]; then
            continue
        elif [[ -z $command ]]; then
            command=$word
            _skeg_table "$command"
        else
            arguments=$((arguments + 1))
        fi
    done
    COMPREPLY=()
    if [[ -n $flag ]]; then
        _skeg_values "$command" "$flag"
        [[ ${#action[@]} -eq 0 ]] || mapfile -t COMPREPLY < <(compgen "${action[@]}" -- "$current")
    elif [[ $current = -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$current")
    elif [[ -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W '@COMMANDS@' -- "$current")
    elif [[ $container = true && $arguments -eq 0 ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(skeg "${root[@]}" list -q 2>/dev/null)" -- "$current")
    elif [[ $command = kill && $arguments -eq 1 ]]; then
        mapfile -t COMPREPLY < <(compgen -W '@SIGNALS@' -- "$current")
    elif [[ $command = exec ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
}

complete -F _skeg skeg
