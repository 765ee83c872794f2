# Completion of arcssh for fish.

function __arcssh_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    string match -q -- '~/*' $program; and set program (string replace -- '~' $HOME $program)
    type -q -- $program; or return
    command $program complete fish --current="$current" -- $words[2..-1] 2>/dev/null
end

complete -c arcssh -e
complete -c arcssh -f -k -a '(__arcssh_complete)'
