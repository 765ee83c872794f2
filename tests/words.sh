#!/bin/sh
# Rejects a list of words that make a text hard to read. Prints file, line and word of each hit.
#
#   tests/words.sh           checks the documentation, the templates, and the Rust source of arcssh and of the emulator
#   tests/words.sh FILE…     checks these files
#
# Covered: prose, headings and tables; in Rust, comments, string literals and identifiers. Not covered: text in backticks
# and fenced blocks, which quote commands and messages as programs print them.
set -eu

words="whoever, nobody, somebody, anew, in vain, comes to nothing, come about, comes about, is told, are told, told apart,
stand in, stands in, one's own, of the user's own, hear of, hears of, look at, looks at, pass over, passes over, passed over,
go by, goes by, lead to, leads to, mint, mints, beside it, put right, for all that, so much as, that there is,
it is good for"

if [ $# -eq 0 ]; then
    cd "$(dirname "$0")/.."
    set -- docs/*.md README.md CONTRIBUTING.md CHANGELOG.md config-templates/* \
        $(find src tests/emulator -name target -prune -o -type f \( -name '*.rs' -o -name '*.md' \) -print | sort)
fi
for file; do
    [ -r "$file" ] || { echo "words: cannot read $file" >&2; exit 2; }
done

# A phrase may be broken across two lines: each line is checked together with the next one.
awk -v list="$words" '
    function plain(text) {
        gsub(/`[^`]*`/, "`", text)
        if (file ~ /\.rs$/) gsub(/[A-Z][a-z]/, " &", text) # the words of an identifier in camel case
        gsub(/’/, "\047", text)
        text = " " tolower(text) " "
        gsub(/[^a-z0-9\047]+/, " ", text)
        return text
    }
    function check(line, following,   i, at) {
        for (i = 1; i <= count; i++) {
            at = index(line following, " " word[i] " ")
            if (at && at < length(line)) {
                print file ":" number ": " word[i]
                found = 1
            }
        }
    }
    function flush() {
        if (number) check(line, "")
        number = 0
    }
    BEGIN {
        gsub(/[ \n]+/, " ", list)
        count = split(list, word, /, /)
    }
    FNR == 1 { flush(); file = FILENAME; fenced = 0 }
    /^ *```/ { fenced = !fenced }
    {
        next_line = fenced ? " " : plain($0)
        if (number) check(line, substr(next_line, 2))
        line = next_line
        number = FNR
    }
    END { flush(); exit found + 0 }
' "$@"
