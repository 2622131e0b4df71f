//! Everything that touches the terminal: output, colours, progress bars, Ctrl-C and the line editor.

pub mod editor;
pub mod interrupt;
pub mod output;
pub mod progress;
pub mod style;
