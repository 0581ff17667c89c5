//! The completions of bash, zsh and fish: commands, flags, the words that flags take, and ids of containers, which come from
//! `skeg list -q` with the `--root` of the line.

use std::fmt::Write as _;

use skeg::cli::flags::Flag;
use skeg::cli::table::{COMMANDS, GLOBAL, Syntax};

use crate::values::{self, SIGNALS, Value};

const FIRST_LINE: &str = "Made from the command line definition of skeg.";

/// The part of the bash completion that is the same for every table.
const BASH: &str = include_str!("completions/skeg.bash");
/// The part of the zsh completion that is the same for every table.
const ZSH: &str = include_str!("completions/_skeg");
/// The part of the fish completion that is the same for every table.
const FISH: &str = include_str!("completions/skeg.fish");

/// The forms of a flag on the command line: `--bundle`, `-b`.
fn forms(flag: &Flag) -> Vec<String> {
    let short = (!flag.short.is_empty()).then(|| format!("-{}", flag.short));
    std::iter::once(format!("--{}", flag.name)).chain(short).collect()
}

fn shown(flags: &[Flag]) -> impl Iterator<Item = &Flag> {
    flags.iter().filter(|flag| !flag.hidden)
}

/// Whether the first argument is the id of a container that is there.
fn takes_container(command: &Syntax) -> bool {
    command.arguments.contains("<container-id>") && !["create", "run", "restore"].contains(&command.name)
}

/// Words as one, separated by blanks.
fn words(words: impl Iterator<Item = impl AsRef<str>>) -> String {
    words.fold(String::new(), |mut all, word| {
        if !all.is_empty() {
            all.push(' ');
        }
        all.push_str(word.as_ref());
        all
    })
}

/// skeg.bash, for the directory bash-completion/completions.
pub fn bash() -> String {
    let mut table = String::new();
    let mut entry = |name: &str, flags: &'static [Flag], container: bool| {
        let all = words(shown(flags).flat_map(forms).chain(["--help".to_owned(), "-h".to_owned()]));
        let with_value = words(flags.iter().filter(|flag| values::of(flag) != Value::None).flat_map(forms));
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            table,
            "        {name}) flags='{all}' with_value=' {with_value} ' container={container} ;;"
        );
    };
    entry("''", GLOBAL, false);
    for command in COMMANDS {
        entry(command.name, command.flags, takes_container(command));
    }
    let mut taken = String::new();
    let tables =
        [("", GLOBAL)].into_iter().chain(COMMANDS.iter().map(|command| (command.name, command.flags)));
    for (name, flags) in tables {
        for flag in shown(flags) {
            let action = match values::of(flag) {
                Value::OneOf(list) => format!("-W '{}'", list.join(" ")),
                Value::File => "-f".to_owned(),
                Value::Directory => "-d".to_owned(),
                Value::None | Value::Free => continue,
            };
            for form in forms(flag) {
                let _ = writeln!(taken, "        {name}:{form}) action=({action}) ;;");
            }
        }
    }
    let commands = words(COMMANDS.iter().map(|command| command.name));
    BASH.replace("@FIRST@", FIRST_LINE)
        .replace("@COMMANDS@", &commands)
        .replace("@SIGNALS@", &SIGNALS.join(" "))
        .replace("        @TABLE@\n", &table)
        .replace("        @VALUES@\n", &taken)
}

/// _skeg, for zsh's site-functions.
pub fn zsh() -> String {
    let mut commands = String::new();
    let mut cases = String::new();
    for command in COMMANDS {
        let _ = writeln!(commands, "        {}", quoted(&format!("{}:{}", command.name, command.summary)));
        let _ = write!(cases, "    {})\n        _arguments \\\n", command.name);
        for spec in shown(command.flags).flat_map(zsh_specs) {
            let _ = writeln!(cases, "            {spec} \\");
        }
        let rest = match command.name {
            "kill" => format!("'1:container:_skeg_containers' '2:signal:({})'", SIGNALS.join(" ")),
            "exec" => "'1:container:_skeg_containers' '*:: :_normal'".to_owned(),
            _ if takes_container(command) => "'1:container:_skeg_containers'".to_owned(),
            // An action without words: a message would keep zsh from completing flags in the same place.
            _ => "'*:argument:()'".to_owned(),
        };
        let _ = write!(cases, "            {rest}\n        ;;\n");
    }
    let global =
        shown(GLOBAL).flat_map(zsh_specs).fold(String::new(), |all, spec| all + "        " + &spec + " \\\n");
    ZSH.replace("@FIRST@", FIRST_LINE)
        .replace("        @GLOBAL@\n", &global)
        .replace("        @COMMANDS@\n", &commands)
        .replace("    @CASES@\n", &cases)
}

/// What `_arguments` wants to know of a flag, in each of its forms.
fn zsh_specs(flag: &Flag) -> Vec<String> {
    let help = flag.help.replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
    let value = match values::of(flag) {
        Value::None => String::new(),
        Value::OneOf(list) => format!(":{}:({})", flag.name, list.join(" ")),
        Value::File => format!(":{}:_files", flag.name),
        Value::Directory => format!(":{}:_files -/", flag.name),
        Value::Free => format!(":{}: ", flag.name),
    };
    let repeated = if flag.kind == skeg::cli::flags::Kind::List { "*" } else { "" };
    forms(flag).iter().map(|form| quoted(&format!("{repeated}{form}[{help}]{value}"))).collect()
}

/// skeg.fish, for fish's vendor_completions.d.
pub fn fish() -> String {
    let mut lines = String::new();
    for flag in shown(GLOBAL) {
        let _ = writeln!(lines, "complete -c skeg -n '__skeg_in \"\"' {}", fish_flag(flag));
    }
    for command in COMMANDS {
        let (name, summary) = (command.name, quoted(command.summary));
        let _ = writeln!(lines, "complete -c skeg -n '__skeg_in \"\"' -a {name} -d {summary}");
        for flag in shown(command.flags) {
            let _ = writeln!(lines, "complete -c skeg -n '__skeg_in {name}' {}", fish_flag(flag));
        }
        if takes_container(command) {
            let _ = writeln!(lines, "complete -c skeg -n '__skeg_in {name}' -a '(__skeg_containers)'");
        }
    }
    let _ = writeln!(lines, "complete -c skeg -n '__skeg_in kill' -a '{}'", SIGNALS.join(" "));
    let with_value = words(GLOBAL.iter().filter(|flag| values::of(flag) != Value::None).flat_map(forms));
    FISH.replace("@FIRST@", FIRST_LINE).replace("@WITH_VALUE@", &with_value).replace("@LINES@\n", &lines)
}

fn fish_flag(flag: &Flag) -> String {
    let mut text = format!("-l {}", flag.name);
    if !flag.short.is_empty() {
        let _ = write!(text, " -s {}", flag.short);
    }
    match values::of(flag) {
        Value::None => {}
        Value::OneOf(list) => {
            let _ = write!(text, " -x -a '{}'", list.join(" "));
        }
        Value::File => text.push_str(" -r -F"),
        Value::Directory => text.push_str(" -x -a '(__fish_complete_directories)'"),
        Value::Free => text.push_str(" -x"),
    }
    let _ = write!(text, " -d {}", quoted(flag.help));
    text
}

/// One word of a shell, in single quotes. Double quotes within it say what a default is and are left out.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('"', "").replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_knows_every_command_and_shown_flag() {
        let (bash, zsh, fish) = (bash(), zsh(), fish());
        for command in COMMANDS {
            for flag in shown(command.flags) {
                let long = format!("--{}", flag.name);
                assert!(bash.contains(&long) && zsh.contains(&format!("{long}[")), "{} {long}", command.name);
                let line = format!("-n '__skeg_in {}' -l {} ", command.name, flag.name);
                assert!(fish.contains(&line), "{line}");
            }
            assert!(zsh.contains(&format!("    {})\n", command.name)), "{}", command.name);
            assert!(bash.contains(&format!("        {}) flags=", command.name)), "{}", command.name);
        }
    }

    #[test]
    fn nothing_is_left_of_the_templates() {
        for text in [bash(), zsh(), fish()] {
            for place in
                ["FIRST", "TABLE", "VALUES", "COMMANDS", "SIGNALS", "GLOBAL", "CASES", "WITH_VALUE", "LINES"]
            {
                assert!(!text.contains(&format!("@{place}@")), "{place}");
            }
        }
    }

    #[test]
    fn quotes_end_no_word() {
        assert_eq!(quoted("the container's \"x\""), "'the container'\\''s x'");
    }
}
