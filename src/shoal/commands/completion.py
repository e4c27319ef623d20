"""``shoal completion SHELL``: prints the script by which a shell completes the words of ``shoal``.

A script knows nothing of shoal itself. It hands over what is typed, as arguments and never as code, and offers the
lines that ``shoal __complete`` answers; so it need not be written anew when shoal changes.
"""

import argparse

from shoal.commands.completing import SHELLS
from shoal.commands.parsing import Parser
from shoal.errors import UserError, nearest

# COMP_LINE and not COMP_WORDS, which are broken at : and =; "$1" may begin with a tilde as it was typed
_BASH = r"""# Completion of shoal for bash 4 and later: source <(shoal completion bash)
_shoal() {
    local answer
    COMPREPLY=()
    while IFS= read -r answer; do
        case $answer in
            :files) compopt -o default ;;
            :folders) compopt -o dirnames ;;
            *) COMPREPLY+=("$answer") ;;
        esac
    done < <("${1/#\~/$HOME}" __complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
complete -F _shoal shoal
"""

_ZSH = r"""#compdef shoal
# Completion of shoal for zsh, after compinit: source <(shoal completion zsh)
_shoal() {
    local -a answers
    answers=("${(@f)$("${words[1]/#\~/$HOME}" __complete words "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    case $answers[1] in
        '') return 1 ;;
        :files) compset -P '--*='; _files ;;
        :folders) compset -P '--*='; _files -/ ;;
        *) compadd -a answers ;;
    esac
}
if [[ $funcstack[1] == _shoal ]]; then
    _shoal "$@"
else
    compdef _shoal shoal
fi
"""

_FISH = r"""# Completion of shoal for fish 3 and later: shoal completion fish | source
function __shoal_complete
    set -l before (commandline -opc)
    set -l now (commandline -ct)
    set -l command $before[1]
    set -e before[1]
    set -l answers ($command __complete words $before "$now" 2>/dev/null)
    set -l flag (string match -r -- '^--[^=]+=' "$now")
    set -l path (string replace -r -- '^--[^=]+=' '' "$now")
    switch "$answers[1]"
        case ':files'
            printf '%s\n' "$flag"(__fish_complete_path "$path")
        case ':folders'
            printf '%s\n' "$flag"(__fish_complete_directories "$path")
        case '*'
            string join \n -- $answers
    end
end
complete -c shoal -f -a '(__shoal_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
assert tuple(SCRIPTS) == SHELLS


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("shell", nargs="?", metavar="SHELL", help=" | ".join(SHELLS))


def run(options: argparse.Namespace) -> int:
    """Print the script of the shell."""
    if options.shell is None:
        raise UserError(f"completion needs the name of a shell: {' '.join(SHELLS)}")
    if options.shell not in SCRIPTS:
        known = " ".join(SHELLS)
        raise UserError(f"no completion for shell {options.shell!r}: one of {known}{nearest(options.shell, SHELLS)}")
    print(SCRIPTS[options.shell], end="")
    return 0
