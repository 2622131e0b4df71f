//! The commands of a conversation: lines that start with `/`.

use std::path::PathBuf;

/// All commands, for completion.
pub const NAMES: &[&str] = &[
    "/adapter ",
    "/help",
    "/load ",
    "/quit",
    "/reset",
    "/save ",
    "/stats",
    "/system ",
];

/// What `/help` prints.
pub const HELP: &str = "\
/help            this list
/system [TEXT]   set what the model is told before the conversation; without TEXT, show it
/adapter [NAME]  answer with this LoRA adapter, `none` for the model itself; without NAME, list them
/reset           forget the conversation, keep the system message
/save FILE       write the conversation as OpenAI messages (JSON)
/load FILE       go on with a conversation from a file
/stats           tokens and speed
/quit            leave (also Ctrl-D)
Ctrl-C stops an answer. A line that ends with \\ goes on in the next; \"\"\" opens and closes a text of several lines.
";

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub enum Slash {
    Help,
    System(Option<String>),
    Adapter(Option<String>),
    Reset,
    Save(PathBuf),
    Load(PathBuf),
    Stats,
    Quit,
}

/// The command in `line`; `None` if it is something to say to the model.
pub fn parse(line: &str) -> Option<Result<Slash, String>> {
    let line = line.trim();
    let rest = line.strip_prefix('/')?;
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    // A path or a regular expression is something to say.
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphabetic()) {
        return None;
    }
    let argument = argument.trim();
    Some(match (name, argument) {
        ("help", "") => Ok(Slash::Help),
        ("system", "") => Ok(Slash::System(None)),
        ("system", text) => Ok(Slash::System(Some(text.to_owned()))),
        ("adapter", "") => Ok(Slash::Adapter(None)),
        ("adapter", name) => Ok(Slash::Adapter(Some(name.to_owned()))),
        ("reset", "") => Ok(Slash::Reset),
        ("stats", "") => Ok(Slash::Stats),
        ("quit" | "exit", "") => Ok(Slash::Quit),
        ("save" | "load", "") => Err(format!("/{name} needs a file name")),
        ("save", path) => Ok(Slash::Save(path.into())),
        ("load", path) => Ok(Slash::Load(path.into())),
        ("help" | "reset" | "stats" | "quit" | "exit", _) => {
            Err(format!("/{name} takes nothing after it"))
        }
        _ => Err(format!("no command /{name}; /help lists them")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_their_arguments() {
        assert_eq!(parse("/help"), Some(Ok(Slash::Help)));
        assert_eq!(
            parse(" /system  Be brief. "),
            Some(Ok(Slash::System(Some("Be brief.".into()))))
        );
        assert_eq!(parse("/system"), Some(Ok(Slash::System(None))));
        assert_eq!(
            parse("/save a b.json"),
            Some(Ok(Slash::Save("a b.json".into())))
        );
        assert_eq!(parse("/adapter"), Some(Ok(Slash::Adapter(None))));
        assert_eq!(
            parse("/adapter law"),
            Some(Ok(Slash::Adapter(Some("law".into()))))
        );
        assert_eq!(parse("/quit"), Some(Ok(Slash::Quit)));
    }

    #[test]
    fn what_is_not_a_command_is_said_to_the_model() {
        assert_eq!(parse("hello /help"), None);
        assert_eq!(parse("/etc/passwd is what?"), None);
        assert_eq!(parse("/"), None);
    }

    #[test]
    fn wrong_commands_are_explained() {
        assert!(parse("/sytem x").unwrap().unwrap_err().contains("/help"));
        assert!(parse("/save").unwrap().unwrap_err().contains("file name"));
        assert!(parse("/reset all").unwrap().is_err());
    }

    #[test]
    fn every_completed_command_is_one() {
        for name in NAMES {
            let line = format!("{name}x");
            assert!(
                parse(name.trim()).is_some_and(|parsed| parsed.is_ok())
                    || parse(&line).unwrap().is_ok(),
                "{name}"
            );
        }
    }
}
