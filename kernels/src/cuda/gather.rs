//! Lines of a matrix, by index.

use super::gpu::{Arg, count};
use super::sources::GATHER;
use super::{Dtype, Gpu, GpuError, Slice};

/// Line `i` of `to` [lines, width] = line `lines[i]` of `from` [.., width], of the same dtype; lines that `from` does not have
/// leave `to` as it is.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn gather(gpu: &Gpu, from: &Slice, lines: &Slice, width: usize, to: &Slice) -> Result<(), GpuError> {
    assert!(width > 0 && from.len().is_multiple_of(width), "{} numbers in lines of {width}", from.len());
    assert_eq!(lines.dtype(), Dtype::U32, "lines are counted");
    assert_eq!((to.dtype(), to.len()), (from.dtype(), lines.len() * width), "a line of `from` for each line asked for");
    let bytes = width * from.dtype().bytes();
    let (name, word) = match bytes.is_multiple_of(16) && from.aligned() && to.aligned() {
        true => ("gather_16_bytes", 16),
        false => ("gather_2_bytes", 2),
    };
    let numbers = [bytes / word, from.len() / width].map(Arg::count);
    let args = [&[from, lines, to].map(Arg::slice)[..], &numbers].concat();
    // SAFETY: these are the arguments of both; shapes were checked, and kernels leave out lines that are not there.
    unsafe { gpu.launch(&GATHER, name, (count(lines.len()), 1, 1), 256, 0, &args) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::checks::*;

    #[test]
    #[ignore = "needs a GPU"]
    fn lines_are_gathered() {
        let (gpu, mut rng) = (gpu(), rng(31));
        for (dtype, width) in DTYPES.into_iter().flat_map(|dtype| [1, 7, 8, 64, 576, 4096].map(|width| (dtype, width)))
        {
            let all = 50;
            let numbers = round(dtype, &uniform(&mut rng, all * width));
            let from = Slice::of(&gpu, dtype, &numbers).expect("memory");
            let lines: Vec<u32> = (0..70).map(|_| rng.random_range(0..all as u32)).collect();
            let to = poisoned(&gpu, dtype, lines.len() * width);
            gather(&gpu, &from, &Slice::of_u32(&gpu, &lines).expect("memory"), width, &to).expect("a launch");
            let expected: Vec<f32> =
                lines.iter().flat_map(|&line| numbers[line as usize * width..][..width].to_vec()).collect();
            assert_eq!(to.to_f32().expect("numbers"), expected, "{dtype:?} {width}");
        }
    }
}
