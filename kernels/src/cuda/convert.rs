//! Numbers of one type as those of another, on the host.

use half::{bf16, f16};

use super::Dtype;

/// Writes the numbers of `bytes`, which are of type `from`, to `out` as those of type `to`: rounded to the nearest, ties to even.
/// Both are little-endian, and need not be aligned.
///
/// # Panics
/// If there are not as many numbers in both, or one type is u32 and the other is not.
pub fn convert(from: Dtype, bytes: &[u8], to: Dtype, out: &mut [u8]) {
    let numbers = bytes.len() / from.bytes();
    assert_eq!((bytes.len(), out.len()), (numbers * from.bytes(), numbers * to.bytes()), "as many {to:?} as {from:?}");
    if from == to {
        return out.copy_from_slice(bytes);
    }
    match from {
        Dtype::F32 => write(bytes, f32::from_le_bytes, to, out),
        Dtype::F16 => write(bytes, |number| f16::from_le_bytes(number).to_f32(), to, out),
        Dtype::Bf16 => write(bytes, |number| bf16::from_le_bytes(number).to_f32(), to, out),
        Dtype::U32 => panic!("u32 numbers are no floats"),
    }
}

fn write<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32, to: Dtype, out: &mut [u8]) {
    match to {
        Dtype::F32 => each(bytes, out, |from| number(from).to_le_bytes()),
        Dtype::F16 => each(bytes, out, |from| f16::from_f32(number(from)).to_le_bytes()),
        Dtype::Bf16 => each(bytes, out, |from| bf16::from_f32(number(from)).to_le_bytes()),
        Dtype::U32 => panic!("floats are no u32 numbers"),
    }
}

fn each<const N: usize, const M: usize>(bytes: &[u8], out: &mut [u8], number: impl Fn([u8; N]) -> [u8; M]) {
    for (from, to) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        *to = number(*from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        let numbers = [
            0.0,
            -0.0,
            1.0,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            -1.0 / 3.0,
            65504.0,
            1e-7,
            1e-40,
            f32::MAX,
            f32::INFINITY,
        ];
        let bytes: Vec<u8> = numbers.iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
        let converted = |to: Dtype| {
            let mut out = vec![0xff; numbers.len() * to.bytes() + 1];
            // Nothing is aligned.
            let moved = [&[0], &bytes[..]].concat();
            convert(Dtype::F32, &moved[1..], to, &mut out[1..]);
            out.split_off(1)
        };
        assert_eq!(converted(Dtype::F32), bytes);
        let halves = numbers.map(|x| f16::from_f32(x).to_le_bytes());
        assert_eq!(converted(Dtype::F16), halves.as_flattened());
        let brains = numbers.map(|x| bf16::from_f32(x).to_le_bytes());
        assert_eq!(converted(Dtype::Bf16), brains.as_flattened());
    }

    #[test]
    fn all_halves_come_back_from_floats() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let (mut wide, mut back) = (vec![0; 2 * all.len()], vec![0; all.len()]);
            convert(dtype, &all, Dtype::F32, &mut wide);
            convert(Dtype::F32, &wide, dtype, &mut back);
            let not_a_number = |i: usize| f32::from_le_bytes(wide.as_chunks().0[i]).is_nan();
            let unlike = |i: &usize| all.as_chunks::<2>().0[*i] != back.as_chunks::<2>().0[*i] && !not_a_number(*i);
            assert_eq!((0..=usize::from(u16::MAX)).find(unlike), None, "{dtype:?}");
        }
    }
}
