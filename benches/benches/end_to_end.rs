//! A whole engine with its thread, scheduler and sampling, around the smallest preset: mostly overhead, so that a change in the
//! overhead shows. `glm-cli bench` measures models of a real size.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glm_runtime::bench::{Machine, Session};
use glm_runtime::{Engine, Quantization, WeightFormat};

const PROMPT_TOKENS: usize = 64;
const GEN_TOKENS: usize = 32;

fn engine(c: &mut Criterion) {
    let engine = Engine::builder("random:tiny-9m")
        .quantize(Quantization::Uniform(WeightFormat::Q8_0))
        .max_model_len(256)
        .build()
        .expect("a preset");
    // The limits of the machine are not looked at here.
    let mut session = Session::new(&engine, Machine::default(), 0).expect("fits");
    let mut group = c.benchmark_group("engine");
    group.sample_size(20);
    group.throughput(Throughput::Elements(PROMPT_TOKENS as u64));
    group.bench_function("prefill", |b| {
        b.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    let result = session.prefill(PROMPT_TOKENS, 0, 1).expect("fits");
                    Duration::from_secs_f64(PROMPT_TOKENS as f64 / result.tok_s)
                })
                .sum()
        });
    });
    for batch in [1, 4] {
        group.throughput(Throughput::Elements((batch * GEN_TOKENS) as u64));
        group.bench_function(format!("decode/{batch}_streams"), |b| {
            b.iter_custom(|iterations| {
                (0..iterations)
                    .map(|_| {
                        let result = session.decode(batch, 0, GEN_TOKENS, 1).expect("fits");
                        Duration::from_secs_f64((batch * GEN_TOKENS) as f64 / result.tok_s)
                    })
                    .sum()
            });
        });
    }
}

criterion_group!(benches, engine);
criterion_main!(benches);
