#![no_main]

use glm_core::chat::{ChatFormat, ChatRequest, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    if let Ok(format) = ChatFormat::from_template(source, "chat_template.jinja".as_ref()) {
        let _ = format.render(&ChatRequest::new(vec![Message::text("system", "S"), Message::text("user", "你好")]));
    }
});
