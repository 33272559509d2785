//! Manual pages (man(7)) from plain text.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

/// What stands at the bottom of each page, in the middle of its head.
const MANUAL: &str = "knockd";

/// A section of a page: its heading, and what stands there.
pub(crate) struct Section<'a> {
    pub(crate) heading: &'a str,
    pub(crate) parts: Vec<Part<'a>>,
}

/// A piece of a section.
pub(crate) enum Part<'a> {
    /// A paragraph, in which `` ` `` makes bold.
    Text(&'a str),
    /// Terms, and what they mean.
    List(&'a [(&'a str, &'a str)]),
    /// Lines that stay as they are.
    Example(&'a str),
}

/// The page of a command, with further sections at its end.
pub(crate) fn command(command: Command, number: &str, sections: &[Section<'_>]) -> io::Result<String> {
    let source = format!("knockd {}", command.get_version().unwrap_or_default());
    let name = command.get_name().to_uppercase();
    let has_subcommands = command.has_subcommands();
    let man = Man::new(command.clone()).title(name).section(number).manual(MANUAL).source(source);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if has_subcommands {
        subcommands(&command).to_writer(&mut text)?;
    }
    man.render_options_section(&mut text)?;
    let mut roff = Roff::new();
    for section in sections {
        add(&mut roff, section);
    }
    roff.to_writer(&mut text)?;
    Ok(finish(text))
}

/// A page of nothing but sections.
pub(crate) fn page(name: &str, number: &str, sections: &[Section<'_>]) -> io::Result<String> {
    let mut roff = Roff::new();
    let source = concat!("knockd ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", [name.to_uppercase().as_str(), number, "", source, MANUAL]);
    for section in sections {
        add(&mut roff, section);
    }
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    Ok(finish(text))
}

/// No blanks at the ends of lines, which reviews and editors stumble over.
fn finish(text: Vec<u8>) -> String {
    let text = String::from_utf8_lossy(&text);
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The commands of a command, each with its own options: one page tells all.
fn subcommands(command: &Command) -> Roff {
    let mut command = command.clone();
    command.build();
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for (name, sub) in innermost("", &command) {
        let operands = sub.get_positionals().map(|operand| {
            let name = operand.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
            if operand.is_required_set() { format!(" {name}") } else { format!(" [{name}]") }
        });
        roff.control("TP", []);
        roff.text([bold(name), roman(operands.collect::<String>())]);
        roff.text([roman(sentence(sub.get_about().map(ToString::to_string).as_deref().unwrap_or_default()))]);
        let own = sub.get_arguments().filter(|option| {
            !option.is_positional()
                && !option.is_global_set()
                && option.get_id() != "help"
                && option.get_id() != "version"
        });
        for option in own {
            let value = option.get_value_names().filter(|_| option.get_action().takes_values());
            let value = value.and_then(<[_]>::first).map_or(String::new(), |value| format!(" {value}"));
            roff.control("RS", []);
            roff.control("TP", []);
            roff.text([bold(format!("--{}", option.get_long().unwrap_or_default())), roman(value)]);
            roff.text([roman(sentence(option.get_help().map(ToString::to_string).as_deref().unwrap_or_default()))]);
            roff.control("RE", []);
        }
    }
    roff
}

/// The commands that have none below them, with the words that name them: `spa keys`.
fn innermost<'a>(before: &str, command: &'a Command) -> Vec<(String, &'a Command)> {
    let subcommands = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    let with_name = |sub: &'a Command| {
        let name = format!("{before}{}", sub.get_name());
        if sub.has_subcommands() { innermost(&format!("{name} "), sub) } else { vec![(name, sub)] }
    };
    subcommands.flat_map(with_name).collect()
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

fn add(roff: &mut Roff, section: &Section<'_>) {
    roff.control("SH", [section.heading]);
    for part in &section.parts {
        match part {
            Part::Text(text) => {
                roff.control("PP", []);
                roff.text(inlines(text));
            }
            Part::List(items) => {
                for (term, meaning) in *items {
                    roff.control("TP", []);
                    roff.text([bold(*term)]);
                    roff.text(inlines(meaning));
                }
            }
            Part::Example(text) => {
                roff.control("PP", []);
                roff.control("RS", ["4"]);
                roff.control("EX", []);
                for line in text.lines() {
                    roff.text([roman(line)]);
                }
                roff.control("EE", []);
                roff.control("RE", []);
            }
        }
    }
}

/// What stands between backquotes is bold.
fn inlines(text: &str) -> Vec<Inline> {
    let pieces = text.split('`').enumerate();
    pieces.map(|(index, piece)| if index % 2 == 1 { bold(piece) } else { roman(piece) }).collect()
}
