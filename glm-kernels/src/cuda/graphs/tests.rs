use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::cuda::driver::emulated::Emulator;
use crate::cuda::driver::fake::FakeDriver;
use crate::testing::Random;
use crate::{
    CudaOptions, SampleLists, SampleRule, Weight, WeightBuilder, WeightFormat, embed, gather_rows,
    sample_later,
};

const MEMORY: u64 = 16 << 20;
const ROWS: usize = 11;
const COLUMNS: usize = 96;

/// A device, and a step over two lists on it: rows of a table, and of those some again.
struct Test {
    driver: FakeDriver,
    device: Device,
    table: Weight,
    values: Vec<f32>,
}

impl Test {
    /// Whose kernels do nothing.
    fn idle() -> Self {
        Self::new(FakeDriver::new(1, MEMORY), CudaOptions::default())
    }

    /// Whose kernels run, where there is a compiler.
    fn emulated() -> Option<Self> {
        let driver = FakeDriver {
            emulator: Some(Emulator::shared()?),
            ..FakeDriver::new(1, MEMORY)
        };
        Some(Self::new(driver, CudaOptions::default()))
    }

    fn new(driver: FakeDriver, options: CudaOptions) -> Self {
        let device = Device::with_driver(&driver, options).unwrap();
        let values = Random::new(1).values(ROWS * COLUMNS);
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut builder = WeightBuilder::new(&device, COLUMNS);
        builder.push_rows(WeightFormat::F32, ROWS, &bytes).unwrap();
        let table = builder.finish().unwrap();
        Self {
            driver,
            device,
            table,
            values,
        }
    }

    fn graphs(&self) -> Graphs {
        Graphs::switched(&self.device, None)
    }

    fn step(&self, [ids, rows]: &[Indices; 2]) -> Result<Tensor, KernelError> {
        gather_rows(&embed(&self.table, ids)?, rows)
    }

    fn run(&self, graphs: &mut Graphs, lists: &[Indices; 2]) -> Result<Tensor, KernelError> {
        let key = Some([lists[0].len(), lists[1].len()]);
        graphs.run(key, &lists[0], || self.step(lists))
    }

    fn check(&self, [ids, rows]: &[Indices; 2], got: &Tensor) {
        let row = |row: &u32| &self.values[ids[*row as usize] as usize * COLUMNS..][..COLUMNS];
        let want: Vec<f32> = rows.iter().flat_map(row).copied().collect();
        assert_eq!(got.shape(), [rows.len(), COLUMNS]);
        assert_eq!(got.to_f32_vec().unwrap(), want);
    }
}

/// The lists of a step of `tokens` tokens.
fn lists(seed: usize, tokens: usize) -> [Indices; 2] {
    let numbers = |factor: usize, end: usize| -> Vec<u32> {
        let number = |i| ((i + 1) * (seed + factor) % end) as u32;
        (0..tokens).map(number).collect()
    };
    Indices::pack([&numbers(3, ROWS), &numbers(5, tokens)])
}

#[test]
fn the_second_step_is_recorded_and_later_ones_repeat_it_with_other_numbers() {
    let Some(test) = Test::emulated() else {
        return;
    };
    let (mut graphs, faults) = (test.graphs(), &test.driver.faults);
    let mut places = Vec::new();
    // Other tensors of the same sizes, from before and between: nobody writes to them.
    let mut others = Vec::new();
    for round in 0..8 {
        let other = vec![round as f32; 5 * COLUMNS];
        others.push(Tensor::from_f32(&test.device, &other, &[5, COLUMNS]).unwrap());
        let lists = lists(round, 5);
        let calls = faults.calls();
        let got = test.run(&mut graphs, &lists).unwrap();
        let calls = faults.calls() - calls;
        let cuda = test.device.as_cuda().unwrap();
        places.push(got.cuda_ptr("test", "got", cuda).unwrap());
        test.check(&lists, &got);
        assert!(round < 2 || calls == 2, "a copy and a launch, not {calls}");
    }
    for (round, other) in others.iter().enumerate() {
        assert_eq!(other.to_f32_vec().unwrap(), [round as f32; 5 * COLUMNS]);
    }
    assert!(places[1..].iter().all(|place| *place == places[1]));
    assert_eq!((faults.captures(), faults.replays()), (1, 7));
    assert_eq!((graphs.repeated(), graphs.error()), (6, None));
}

#[test]
fn steps_of_several_shapes_share_their_memory() {
    let Some(test) = Test::emulated() else {
        return;
    };
    let mut graphs = test.graphs();
    for round in 0..12 {
        let lists = lists(round, [3, 200, 40][round % 3]);
        let got = test.run(&mut graphs, &lists).unwrap();
        test.check(&lists, &got);
    }
    assert_eq!(test.driver.faults.captures(), 3);
    assert_eq!((graphs.repeated(), graphs.error()), (6, None));
}

#[test]
fn a_step_that_cannot_be_recorded_is_run_as_it_is() {
    let Some(test) = Test::emulated() else {
        return;
    };
    let (mut graphs, faults) = (test.graphs(), &test.driver.faults);
    faults.refuse_captures(true);
    for round in 0..6 {
        let lists = lists(round, 5);
        test.check(&lists, &test.run(&mut graphs, &lists).unwrap());
    }
    assert_eq!((faults.captures(), faults.replays()), (2, 0));
    let error = graphs.error().unwrap();
    assert!(error.contains("previous error during capture"), "{error}");
    faults.refuse_captures(false);

    // Lists that are not packed with the others would be copied again from memory that is gone.
    let mut graphs = test.graphs();
    for round in 0..5 {
        let [ids, rows] = lists(round, 5);
        let lists = [ids, Indices::from(rows.to_vec())];
        test.check(&lists, &test.run(&mut graphs, &lists).unwrap());
    }
    let error = graphs.error().unwrap();
    assert!(error.contains("being written down"), "{error}");
    assert_eq!((faults.replays(), faults.graphs()), (0, 0));
}

#[test]
fn what_goes_wrong_once_may_pass_and_what_goes_wrong_again_may_too_after_long() {
    let test = Test::idle();
    let (mut graphs, faults) = (test.graphs(), &test.driver.faults);
    // Two lengths, so that there is something left to record.
    let run = |graphs: &mut Graphs, tokens, times: u64| {
        for _ in 0..times {
            test.run(graphs, &lists(1, tokens)).unwrap();
        }
    };
    let fail = |graphs: &mut Graphs| {
        run(graphs, 6, 1);
        faults.refuse_captures(true);
        run(graphs, 6, 1);
        faults.refuse_captures(false);
    };
    fail(&mut graphs);
    run(&mut graphs, 5, 2 + PATIENCE);
    assert_eq!((graphs.repeated(), graphs.error()), (PATIENCE, None));
    fail(&mut graphs);
    assert_eq!(faults.graphs(), 0);
    run(&mut graphs, 5, 2 + PATIENCE - 1);
    assert_eq!(
        (graphs.repeated(), graphs.error()),
        (2 * PATIENCE - 1, None)
    );
    fail(&mut graphs);
    assert!(!graphs.is_on());
    let error = graphs.error().unwrap();
    assert!(error.contains("previous error during capture"), "{error}");
    run(&mut graphs, 5, 3);
    assert_eq!((graphs.repeated(), faults.graphs()), (2 * PATIENCE - 1, 0));
}

#[test]
fn numbers_that_operations_refuse_are_refused_in_repeated_steps_too() {
    let Some(test) = Test::emulated() else {
        return;
    };
    let mut graphs = test.graphs();
    let run = |graphs: &mut Graphs, id: u32| {
        let lists = Indices::pack([&[1, id], &[0, 1]]);
        let got = test.run(graphs, &lists);
        got.inspect(|got| test.check(&lists, got)).map(|_| ())
    };
    for _ in 0..3 {
        run(&mut graphs, 2).unwrap();
    }
    let error = run(&mut graphs, ROWS as u32).unwrap_err();
    assert!(matches!(error, KernelError::Index { index: ROWS, .. }));
    assert_eq!(graphs.error(), None);
    for id in 3..6 {
        run(&mut graphs, id).unwrap();
    }
    assert_eq!((graphs.repeated(), graphs.error()), (2, None));
}

#[test]
fn ids_that_the_step_before_draws_get_into_repeated_steps() {
    let Some(test) = Test::emulated() else {
        return;
    };
    let (mut graphs, rows) = (test.graphs(), [3, 0, 4, 4]);
    for round in 0..8 {
        let [ids, others] = lists(round, 5);
        let drawn: Vec<u32> = (0..5)
            .map(|row| (round * 7 + row * 3) % ROWS)
            .map(|id| id as u32)
            .collect();
        let mut logits = vec![0.0; 5 * ROWS];
        for (row, id) in logits.chunks_exact_mut(ROWS).zip(&drawn) {
            row[*id as usize] = 1.0;
        }
        let mut logits = Tensor::from_f32(&test.device, &logits, &[5, ROWS]).unwrap();
        let rules = vec![SampleRule::default(); 5];
        let pending = sample_later(&mut logits, &rules, &SampleLists::default()).unwrap();
        let mut expected = ids.to_vec();
        let mut taken = ids.clone();
        // Steps whose ids are known come between.
        if round % 4 != 3 {
            taken = ids.drawn_by(&pending, &rows).unwrap();
            for (id, row) in expected.iter_mut().zip(rows) {
                *id = drawn[row as usize];
            }
        }
        let got = test.run(&mut graphs, &[taken, others.clone()]).unwrap();
        test.check(&[expected.into(), others], &got);
        let tokens = pending.wait().unwrap();
        assert!(
            tokens
                .iter()
                .zip(&drawn)
                .all(|(token, id)| token.id == Some(*id))
        );
    }
    assert_eq!((graphs.repeated(), graphs.error()), (6, None));
}

#[test]
fn ids_that_may_be_too_large_are_refused_in_repeated_steps_too() {
    let test = Test::idle();
    let mut graphs = test.graphs();
    for round in 0..3 {
        test.run(&mut graphs, &lists(round, 5)).unwrap();
    }
    let mut logits = Tensor::zeros(&test.device, DType::F32, &[1, ROWS + 1]).unwrap();
    let rules = [SampleRule::default()];
    let pending = sample_later(&mut logits, &rules, &SampleLists::default()).unwrap();
    let [ids, others] = lists(3, 5);
    let ids = ids.drawn_by(&pending, &[0]).unwrap();
    let error = test.run(&mut graphs, &[ids, others]).unwrap_err();
    assert!(matches!(error, KernelError::Index { index: ROWS, .. }));
    assert_eq!((graphs.repeated(), graphs.error()), (1, None));
}

#[test]
fn a_result_that_is_still_there_is_not_written_over() {
    let Some(test) = Test::emulated() else {
        return;
    };
    let mut graphs = test.graphs();
    for round in 0..3 {
        test.run(&mut graphs, &lists(round, 5)).unwrap();
    }
    let [first, second] = [lists(7, 5), lists(8, 5)];
    let kept = test.run(&mut graphs, &first).unwrap();
    let other = test.run(&mut graphs, &second).unwrap();
    test.check(&first, &kept);
    test.check(&second, &other);
    assert_eq!((graphs.repeated(), graphs.error()), (2, None));
}

#[test]
fn the_number_of_recordings_is_limited_and_all_goes_with_the_last() {
    let test = Test::idle();
    test.device.release_cached_memory();
    let free = || test.device.cuda_memory().unwrap().unwrap().free;
    let before = free();
    let mut graphs = test.graphs();
    for tokens in 1..MOST + 4 {
        for round in 0..3 {
            test.run(&mut graphs, &lists(round, tokens)).unwrap();
        }
    }
    assert_eq!(test.driver.faults.graphs(), MOST as u64);
    assert_eq!(graphs.repeated(), MOST as u64 + 3);
    // The last one is there still, the first is not.
    test.run(&mut graphs, &lists(0, MOST + 3)).unwrap();
    assert_eq!(graphs.repeated(), MOST as u64 + 4);
    test.run(&mut graphs, &lists(0, 1)).unwrap();
    assert_eq!(graphs.repeated(), MOST as u64 + 4);
    drop(graphs);
    assert_eq!(test.driver.faults.graphs(), 0);
    test.device.release_cached_memory();
    assert_eq!(free(), before);
}

#[test]
fn nothing_is_recorded_where_it_is_switched_off_nor_on_the_cpu() {
    let test = Test::idle();
    let mut graphs = Graphs::switched(&test.device, Some(OsStr::new("off")));
    assert!(!graphs.is_on());
    assert!(Graphs::switched(&test.device, Some(OsStr::new("on"))).is_on());
    assert!(!Graphs::switched(&test.device.host(), None).is_on());
    for round in 0..3 {
        test.run(&mut graphs, &lists(round, 5)).unwrap();
    }
    assert_eq!(test.driver.faults.captures(), 0);
    // Nor is a step without a key.
    let mut graphs = test.graphs();
    for round in 0..3 {
        let lists = lists(round, 5);
        graphs.run(None, &lists[0], || test.step(&lists)).unwrap();
    }
    assert_eq!(test.driver.faults.captures(), 0);
}

#[test]
fn a_device_that_is_lost_in_a_repeated_step_stays_so() {
    let test = Test::idle();
    let mut graphs = test.graphs();
    for round in 0..3 {
        test.run(&mut graphs, &lists(round, 5)).unwrap();
    }
    test.driver.faults.break_after(1);
    for round in 3..5 {
        let error = test.run(&mut graphs, &lists(round, 5)).unwrap_err();
        assert!(matches!(error, KernelError::DeviceLost { .. }), "{error}");
    }
    let calls = test.driver.faults.calls();
    drop(graphs);
    assert_eq!(test.driver.faults.calls(), calls, "nothing is asked of it");
}

#[test]
fn memory_of_recordings_is_given_up_where_other_steps_need_it() {
    let options = CudaOptions {
        memory_limit: Some(1_300_000),
        ..CudaOptions::default()
    };
    let test = Test::new(FakeDriver::new(1, MEMORY), options);
    let mut graphs = test.graphs();
    // 0.8 MB: there is room for one such step.
    let lists = |round| lists(round, 1000);
    let other = |graphs: &mut Graphs| {
        let made = graphs.run(None, &lists(0)[0], || test.step(&lists(0)));
        made.unwrap();
    };
    other(&mut graphs);
    for repeated in [1, 2] {
        for round in 0..3 {
            test.run(&mut graphs, &lists(round)).unwrap();
        }
        assert_eq!((graphs.repeated(), graphs.error()), (repeated, None));
        other(&mut graphs);
    }
    let error = graphs.error().unwrap();
    assert!(error.contains("memory was needed"), "{error}");
    test.run(&mut graphs, &lists(1)).unwrap();
    assert_eq!(test.driver.faults.captures(), 2);
}

#[test]
fn what_other_threads_ask_for_meanwhile_does_not_get_into_a_recording() {
    let Some(test) = Test::emulated() else {
        return;
    };
    let (mut graphs, mut threads) = (test.graphs(), Vec::new());
    for round in 0..4 {
        let lists = lists(round, 5);
        let step = || {
            let (device, (sender, receiver)) = (test.device.clone(), mpsc::channel());
            threads.push(thread::spawn(move || {
                sender.send(()).unwrap();
                Tensor::from_f32(&device, &[3.0; 5000], &[5000]).unwrap()
            }));
            receiver.recv().unwrap();
            thread::sleep(Duration::from_millis(5));
            test.step(&lists)
        };
        let key = Some([5, 5]);
        let got = graphs.run(key, &lists[0], step).unwrap();
        test.check(&lists, &got);
    }
    assert_eq!(threads.len(), 2);
    for thread in threads {
        let tensor = thread.join().unwrap();
        assert_eq!(tensor.to_f32_vec().unwrap(), [3.0; 5000]);
    }
    assert_eq!((graphs.repeated(), graphs.error()), (2, None));
}
