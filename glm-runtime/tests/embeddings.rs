//! Embeddings: the mean of what the golden tests compare with transformers.

use glm_runtime::{Engine, EngineError, EngineHandle};

fn builder(batched_tokens: usize) -> glm_runtime::EngineBuilder {
    Engine::builder("demo").max_num_batched_tokens(batched_tokens)
}

fn embed(engine: &EngineHandle, ids: &[u32]) -> Vec<f32> {
    engine.embed(ids, None).unwrap().wait().unwrap()
}

fn ids(len: u32) -> Vec<u32> {
    (0..len).map(|i| 40 + i * 7 % 300).collect()
}

#[test]
fn an_embedding_is_the_mean_of_the_last_hidden_states() {
    let ids = ids(50);
    let trace = builder(512).build_engine().unwrap().trace(&ids).unwrap();
    let engine = builder(512).build().unwrap();
    let hidden_size = engine.model_info().hidden_size;
    let mean = |i: usize| {
        let column = trace.final_norm.iter().skip(i).step_by(hidden_size);
        (column.map(|value| f64::from(*value)).sum::<f64>() / ids.len() as f64) as f32
    };
    let mean: Vec<f32> = (0..hidden_size).map(mean).collect();
    assert_eq!(embed(&engine, &ids), mean);
}

#[test]
fn it_depends_on_nothing_but_its_text() {
    let whole = builder(512).build().unwrap();
    let chunks = builder(16).build().unwrap();
    let expected = embed(&whole, &ids(100));
    assert_eq!(embed(&chunks, &ids(100)), expected);
    // Several at once, one of which is given up.
    let texts = [ids(30), ids(100), ids(7)];
    let pending: Vec<_> = texts
        .iter()
        .map(|ids| chunks.embed(ids, None).unwrap())
        .collect();
    let mut pending = pending.into_iter();
    drop(pending.next());
    assert_eq!(pending.next().unwrap().wait().unwrap(), expected);
    assert_ne!(pending.next().unwrap().wait().unwrap(), expected);
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let engine = builder(512).build().unwrap();
    let refused = |ids: &[u32]| engine.embed(ids, None).unwrap_err();
    assert!(matches!(refused(&[]), EngineError::EmptyPrompt));
    assert!(matches!(refused(&[u32::MAX]), EngineError::TokenId { .. }));
    let max_model_len = engine.model_info().max_model_len as u32;
    assert!(matches!(
        refused(&vec![1; max_model_len as usize + 1]),
        EngineError::ContextLength { .. }
    ));
    assert!(matches!(
        engine.embed(&[1], Some("nobody")).unwrap_err(),
        EngineError::Adapter(_)
    ));
}
