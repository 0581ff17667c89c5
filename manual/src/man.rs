//! The man pages (man(7)): what the table of commands says, and the sections of `pages`.

use std::fmt::Write as _;

use skeg::cli::VERSION;
use skeg::cli::flags::{Flag, Kind};
use skeg::cli::table::{COMMANDS, GLOBAL, Syntax};

use crate::pages;

/// skeg(8).
pub fn skeg() -> String {
    let mut page = header("skeg", "low-level OCI container runtime");
    page.push_str(
        ".B skeg\n[\\fIglobal options\\fR]\n.I command\n[\\fIcommand options\\fR]\n[\\fIarguments\\fR]\n",
    );
    section(&mut page, "DESCRIPTION");
    text(&mut page, pages::SKEG);
    section(&mut page, "COMMANDS");
    for command in COMMANDS {
        let name = escape(command.name);
        // Writing to a String cannot fail, here and below.
        let _ = write!(page, ".TP\n.BR skeg\\-{name} (8)\n{}\n", line(command.summary));
    }
    options(&mut page, "GLOBAL OPTIONS", GLOBAL);
    sections(&mut page, "skeg");
    section(&mut page, "SEE ALSO");
    let mut names: Vec<_> = COMMANDS.iter().map(|command| format!("skeg-{}", command.name)).collect();
    names.extend(["containerd-shim-skeg-v2".to_owned(), "runc".to_owned()]);
    see_also(&mut page, &names);
    page
}

/// The page of one command.
pub fn command(command: &Syntax) -> String {
    let name = format!("skeg-{}", command.name);
    let mut page = header(&name, command.summary);
    for (number, arguments) in command.arguments.split(" || ").enumerate() {
        if number > 0 {
            page.push_str(".br\n");
        }
        let _ = write!(page, ".B skeg\n[\\fIglobal options\\fR]\n.B {}\n", escape(command.name));
        page.push_str("[\\fIoptions\\fR]\n");
        if !arguments.is_empty() {
            let _ = writeln!(page, "{}", line(arguments));
        }
    }
    section(&mut page, "DESCRIPTION");
    text(&mut page, command.description);
    options(&mut page, "OPTIONS", command.flags);
    sections(&mut page, command.name);
    section(&mut page, "SEE ALSO");
    let mut names = vec!["skeg".to_owned()];
    names.extend(pages::related(command.name).iter().map(|name| format!("skeg-{name}")));
    see_also(&mut page, &names);
    page
}

fn header(name: &str, summary: &str) -> String {
    let (title, shown) = (name.to_uppercase(), escape(name));
    let mut page = format!(
        ".\\\" Made from the command line definition of skeg.\n.TH {title} 8 \"\" \"skeg {VERSION}\"\n"
    );
    page.push_str(".nh\n.ad l\n");
    section(&mut page, "NAME");
    let _ = writeln!(page, "{shown} \\- {}", escape(summary));
    section(&mut page, "SYNOPSIS");
    page
}

fn section(page: &mut String, title: &str) {
    let _ = writeln!(page, ".SH {title}");
}

/// Sections that a person wrote.
fn sections(page: &mut String, name: &str) {
    for (title, body) in pages::sections(name) {
        section(page, title);
        text(page, body);
    }
}

/// Paragraphs, which an empty line separates; lines that begin with two blanks are set as they are.
fn text(page: &mut String, body: &str) {
    for (number, paragraph) in body.split("\n\n").enumerate() {
        let verbatim = paragraph.starts_with("  ");
        if number > 0 {
            page.push_str(".PP\n");
        }
        if verbatim {
            page.push_str(".RS 4\n.nf\n");
        }
        for text in paragraph.lines() {
            let text = if verbatim { text.get(2..).unwrap_or_default() } else { text.trim() };
            let _ = writeln!(page, "{}", line(text));
        }
        if verbatim {
            page.push_str(".fi\n.RE\n");
        }
    }
}

fn options(page: &mut String, title: &str, flags: &[Flag]) {
    section(page, title);
    for flag in flags.iter().filter(|flag| !flag.hidden) {
        let _ = write!(page, ".TP\n{}\n{}\n", form(flag), line(flag.help));
    }
    page.push_str(".TP\n\\fB\\-\\-help\\fR, \\fB\\-h\\fR\nshow help\n");
}

/// `--bundle value, -b value`.
fn form(flag: &Flag) -> String {
    let value = match flag.kind {
        Kind::Bool => "",
        Kind::Int => " \\fInumber\\fR",
        Kind::Duration => " \\fIduration\\fR",
        Kind::Text | Kind::List => " \\fIvalue\\fR",
    };
    let long = format!("\\fB\\-\\-{}\\fR{value}", escape(flag.name));
    match flag.short {
        "" => long,
        short => format!("{long}, \\fB\\-{short}\\fR{value}"),
    }
}

fn see_also(page: &mut String, names: &[String]) {
    for (number, name) in names.iter().enumerate() {
        let comma = if number + 1 < names.len() { "," } else { "" };
        let _ = writeln!(page, ".BR {} (8){comma}", escape(name));
    }
}

/// Text with what roff takes for its own: backslashes, and hyphens that are to be copied as such.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// A line of text: what stands at its beginning is no request.
fn line(text: &str) -> String {
    let escaped = escape(text);
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader sees of a flag, in roff.
    fn shown(flag: &Flag) -> String {
        format!("\\fB\\-\\-{}\\fR", escape(flag.name))
    }

    #[test]
    fn a_page_has_the_shown_flags_and_no_hidden_one() {
        for syntax in COMMANDS {
            let page = command(syntax);
            for flag in syntax.flags {
                assert_eq!(page.contains(&shown(flag)), !flag.hidden, "{} --{}", syntax.name, flag.name);
            }
        }
        for flag in GLOBAL {
            assert_eq!(skeg().contains(&shown(flag)), !flag.hidden, "--{}", flag.name);
        }
    }

    #[test]
    fn skeg_8_names_every_command() {
        for command in COMMANDS {
            assert!(skeg().contains(&format!(".BR skeg\\-{} (8)", escape(command.name))), "{}", command.name);
        }
    }

    /// Commands that run into each other are none that a person can copy.
    #[test]
    fn examples_are_set_as_they_are() {
        for page in COMMANDS.iter().map(command).chain([skeg()]) {
            if let Some((_, examples)) = page.split_once(".SH EXAMPLES\n") {
                assert!(examples.starts_with(".RS 4\n.nf\n"), "{examples}");
            }
        }
    }

    /// man(7): a line that begins with a dot or an apostrophe is a request.
    #[test]
    fn no_text_becomes_a_request() {
        assert_eq!(line(".SH x"), "\\&.SH x");
        assert_eq!(line("'x' \\n -1"), "\\&'x' \\en \\-1");
    }
}
