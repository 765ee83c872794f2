# Completion of arcssh for bash 3.2 and later, with or without bash-completion.

_arcssh() {
    # $2 is the part of the word that bash replaces: it begins after a colon or an equals sign.
    local program=${COMP_WORDS[0]} line=${COMP_LINE:0:COMP_POINT} candidate
    case $program in
        \~/*) program=$HOME/${program#\~/} ;;
    esac
    # An alias, or a path with a variable.
    type -P -- "$program" >/dev/null || program=arcssh
    COMPREPLY=()
    while IFS= read -r candidate; do
        COMPREPLY+=("$candidate")
    done < <("$program" complete bash --current="$2" --line="$line" 2>/dev/null)
    case ${#COMPREPLY[@]}:${COMPREPLY[0]-} in
        1:*[=/]) compopt -o nospace 2>/dev/null ;;
    esac
}

complete -F _arcssh arcssh
