# fish completion for skeg. @FIRST@

# Whether the command of the line is this one; '' for none yet.
function __skeg_in
    set -l skip 0
    set -l found ''
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if string match -q -- '-*' $word
            if contains -- $word @WITH_VALUE@
                set skip 1
            end
        else
            set found $word
            break
        end
    end
    test "$found" = "$argv[1]"
end

function __skeg_containers
    set -l words (commandline -opc)
    set -l at (contains -i -- --root $words)
    if test -n "$at"
        skeg --root $words[(math $at + 1)] list -q 2>/dev/null
    else
        skeg list -q 2>/dev/null
    end
end

complete -c skeg -f
complete -c skeg -l help -s h -d 'show help'
@LINES@
