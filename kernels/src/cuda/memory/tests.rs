use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::cuda::checks::*;

/// Page-locked bytes of 16 numbers, 0 to 15, of a dtype.
fn numbered(gpu: &Arc<Gpu>, dtype: Dtype) -> Pinned {
    let numbers: Vec<f32> = (0..16u8).map(f32::from).collect();
    let bytes = to_bytes(dtype, &numbers);
    let mut pinned = Pinned::new(gpu, bytes.len()).expect("memory");
    pinned.copy_from_slice(&bytes);
    pinned
}

fn panics(f: impl FnOnce() -> Result<(), GpuError>) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

/// The numbers of memory that is -1 where nobody has written.
fn found(slice: &Slice) -> Vec<f32> {
    slice.to_f32().expect("a copy")
}

fn untouched(gpu: &Arc<Gpu>, dtype: Dtype, len: usize) -> Slice {
    Slice::of(gpu, dtype, &vec![-1.0; len]).expect("memory")
}

#[test]
#[ignore = "needs a GPU"]
fn page_locked_bytes_are_written_to_a_part() {
    let gpu = gpu();
    for dtype in DTYPES {
        let (pinned, size) = (numbered(&gpu, dtype), dtype.bytes());
        let all = untouched(&gpu, dtype, 6);
        let part = all.part(1..4);
        part.write_from(&pinned, 5 * size..8 * size).expect("a copy");
        assert_eq!(found(&all), [-1.0, 5.0, 6.0, 7.0, -1.0, -1.0], "{dtype:?}");
        all.part(3..3).write_from(&pinned, 16 * size..16 * size).expect("nothing");
        assert!(panics(|| part.write_from(&pinned, 0..2 * size)), "too few");
        assert!(panics(|| part.write_from(&pinned, 14 * size..17 * size)), "outside");
        assert_eq!(found(&all), [-1.0, 5.0, 6.0, 7.0, -1.0, -1.0], "{dtype:?}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn numbers_are_read_to_page_locked_bytes() {
    let gpu = gpu();
    for dtype in DTYPES {
        let (mut pinned, size) = (numbered(&gpu, dtype), dtype.bytes());
        let mut exact = pinned.to_vec();
        let slice = Slice::of(&gpu, dtype, &[21.0, 22.0, 23.0, 24.0]).expect("memory").part(1..3);
        slice.read_to(&mut pinned, 14 * size).expect("a copy");
        slice.part(0..0).read_to(&mut pinned, 16 * size).expect("nothing");
        gpu.synchronize().expect("an end");
        exact[14 * size..].copy_from_slice(&to_bytes(dtype, &[22.0, 23.0]));
        assert_eq!(*pinned, *exact, "{dtype:?}");
        for at in [15 * size, usize::MAX] {
            assert!(panics(|| slice.read_to(&mut pinned, at)), "no room at {at}");
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn rows_are_written_apart() {
    let gpu = gpu();
    for dtype in DTYPES {
        let (pinned, size) = (numbered(&gpu, dtype), dtype.bytes());
        let all = untouched(&gpu, dtype, 13);
        let matrix = all.part(1..12);
        matrix.write_rows(&pinned, 2 * size, 3, 3, 4).expect("a copy");
        let exact = [-1.0, 2.0, 3.0, 4.0, -1.0, 5.0, 6.0, 7.0, -1.0, 8.0, 9.0, 10.0, -1.0];
        assert_eq!(found(&all), exact, "{dtype:?}");
        // Neither rows nor numbers: nothing.
        matrix.write_rows(&pinned, 0, 3, 0, 0).expect("nothing");
        matrix.write_rows(&pinned, 0, 0, 3, 0).expect("nothing");
        let wrong = [
            ("more than the slice has", (0, 3, 4, 4)),
            ("rows over each other", (0, 3, 3, 2)),
            ("more than the memory has", (8 * size, 3, 3, 3)),
            ("too many to count", (0, usize::MAX / 2, 3, usize::MAX)),
            ("too many to count here", (0, 1, 3, usize::MAX)),
        ];
        for (what, (from, width, rows, pitch)) in wrong {
            assert!(panics(|| matrix.write_rows(&pinned, from, width, rows, pitch)), "{dtype:?}: {what}");
        }
        assert_eq!(found(&all), exact, "{dtype:?}");
        all.write_rows(&pinned, 3 * size, 13, 1, 13).expect("one row");
        assert_eq!(found(&all), (3..16u8).map(f32::from).collect::<Vec<_>>(), "{dtype:?}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn numbers_are_copied_on_the_gpu() {
    let gpu = gpu();
    for dtype in DTYPES {
        let from = Slice::of(&gpu, dtype, &[1.0, 2.0, 3.0, 4.0]).expect("memory");
        let all = untouched(&gpu, dtype, 6);
        all.part(2..5).copy_from(&from.part(1..4)).expect("a copy");
        all.part(0..0).copy_from(&from.part(2..2)).expect("nothing");
        // Side by side in the same memory.
        from.part(0..2).copy_from(&from.part(2..4)).expect("a copy");
        assert_eq!(found(&all), [-1.0, -1.0, 2.0, 3.0, 4.0, -1.0], "{dtype:?}");
        assert_eq!(found(&from), [3.0, 4.0, 3.0, 4.0], "{dtype:?}");
        assert!(panics(|| all.copy_from(&from)), "too few");
        assert!(panics(|| all.part(0..3).copy_from(&all.part(2..5))), "in one another");
        let other = Slice::of_u32(&gpu, &[0; 6]).expect("memory");
        assert!(panics(|| all.copy_from(&other)), "another dtype");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_part_becomes_zero() {
    let gpu = gpu();
    for dtype in DTYPES {
        let all = untouched(&gpu, dtype, 5);
        all.part(1..4).zero().expect("a launch");
        all.part(4..4).zero().expect("nothing");
        assert_eq!(found(&all), [-1.0, 0.0, 0.0, 0.0, -1.0], "{dtype:?}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn copies_stay_on_one_gpu() {
    let (here, there) = (gpu(), gpu());
    let (x, y) = (untouched(&here, Dtype::F32, 16), untouched(&there, Dtype::F32, 16));
    let mut pinned = numbered(&there, Dtype::F32);
    assert!(panics(|| x.write_from(&pinned, 0..64)));
    assert!(panics(|| x.write_rows(&pinned, 0, 4, 4, 4)));
    assert!(panics(|| x.read_to(&mut pinned, 0)));
    assert!(panics(|| x.copy_from(&y)));
}

#[test]
#[ignore = "needs a GPU"]
fn a_slice_says_what_it_is() {
    let slice = untouched(&gpu(), Dtype::Bf16, 3);
    assert_eq!(format!("{slice:?}"), "Slice { dtype: Bf16, len: 3, .. }");
}
