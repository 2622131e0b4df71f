//! Refuses templates that would overflow the stack of the compiler.
//!
//! minijinja bounds the nesting of brackets and blocks, but builds, compiles and drops a chain such as `1 + 1 + 1 …` or
//! `{% elif %}{% elif %}…` by one call per link. A stack overflow cannot be caught, so chains are bounded here before it sees them.
//! The bounds are an order of magnitude above any published template and keep an unoptimised build within a 2 MiB stack.

/// Words and punctuation marks in one `{{ … }}` or `{% … %}`.
const MAX_TOKENS: usize = 2000;

/// `{% elif %}` in one template.
const MAX_ELIFS: usize = 500;

/// What is too long in `source`, and the line where it starts.
pub(super) fn check(source: &str) -> Result<(), (usize, String)> {
    let mut elifs = 0;
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        rest = &rest[start..];
        let line = || 1 + source[..source.len() - rest.len()].matches('\n').count();
        let end = match rest.as_bytes().get(1) {
            Some(b'#') => rest.find("#}").map_or(rest.len(), |at| at + 2),
            Some(b'{' | b'%') => {
                let tag = Tag::scan(rest);
                elifs += usize::from(tag.is_elif);
                if tag.tokens > MAX_TOKENS {
                    return Err((
                        line(),
                        format!("one tag has more than {MAX_TOKENS} words and marks"),
                    ));
                }
                if elifs > MAX_ELIFS {
                    return Err((line(), format!("there are more than {MAX_ELIFS} `elif`s")));
                }
                tag.len
            }
            _ => 1,
        };
        rest = &rest[end..];
    }
    Ok(())
}

/// One `{{ … }}` or `{% … %}`.
struct Tag {
    /// In bytes, braces included.
    len: usize,
    tokens: usize,
    is_elif: bool,
}

impl Tag {
    /// The tag that `text` starts with. A text literal counts as one token, whatever is in it.
    fn scan(text: &str) -> Self {
        let close = if text.starts_with("{{") { "}}" } else { "%}" };
        // The mark that controls white space, as in `{%- elif`, is no token.
        let mark = text[2..].starts_with(['-', '+']);
        let mut at = 2 + usize::from(mark);
        let (mut tokens, mut is_elif) = (0, false);
        while let Some(c) = text[at..].chars().next() {
            if text[at..].starts_with(close) {
                at += close.len();
                break;
            }
            at += match c {
                '\'' | '"' => literal_len(&text[at..], c),
                _ if is_word(c) => {
                    let word = word(&text[at..]);
                    is_elif |= tokens == 0 && word == "elif";
                    word.len()
                }
                _ => c.len_utf8(),
            };
            tokens += usize::from(!c.is_whitespace());
        }
        Self {
            len: at,
            tokens,
            is_elif,
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

/// Bytes of the text literal that `text` starts with, to the end of `text` if it is not closed.
fn literal_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_chains_are_refused_and_their_line_is_named() {
        for link in ["not ", "-", "1+", "a.", "1 if 1 else ", "1 and "] {
            let chain = format!("x\n\n{{{{ {}1 }}}}", link.repeat(MAX_TOKENS + 1));
            assert_eq!(check(&chain).unwrap_err().0, 3, "{link}");
        }
        let filters = format!("{{% set x = 1{} %}}", "|string".repeat(MAX_TOKENS));
        assert!(check(&filters).is_err());
        for elif in ["{% elif 0 %}", "{%- elif 0 -%}", "{%elif 0%}"] {
            let chain = |count| format!("{{% if 0 %}}{}{{% endif %}}", elif.repeat(count));
            assert!(check(&chain(MAX_ELIFS)).is_ok());
            assert!(check(&chain(MAX_ELIFS + 1)).is_err());
        }
    }

    #[test]
    fn texts_and_comments_may_be_of_any_length() {
        let long = "a + 'b' + {{ ".repeat(MAX_TOKENS);
        for source in [
            format!("{{# {long} #}}"),
            format!("{{{{ \"{long}\" }}}}"),
            format!("{{{{ 'it\\'s {}' }}}}", "a + b ".repeat(MAX_TOKENS)),
            "a + b - { c } elif ".repeat(MAX_TOKENS),
        ] {
            assert_eq!(check(&source), Ok(()));
        }
    }

    #[test]
    fn text_that_breaks_off_is_left_to_the_parser() {
        for source in ["{", "{{", "{{ 'a", "{% elif", "{#", "{{ 'a\\", "é{{é"] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }
}
