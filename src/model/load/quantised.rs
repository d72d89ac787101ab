//! A tensor of a GGUF file, dequantised in parts by any number of threads.

use std::fs::File;
use std::os::unix::fs::FileExt;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::{Device, Result};

use crate::device::with_f32;

/// Where a tensor lies in a file, and how.
pub struct Quantised<'a> {
    pub file: &'a File,
    /// Its first byte.
    pub at: u64,
    pub dtype: GgmlDType,
    /// Numbers of it, and of a row.
    pub len: usize,
    pub row: usize,
    /// Rows of each head, where the halves of a head are interleaved.
    pub head_rows: Option<usize>,
}

impl Quantised<'_> {
    /// Writes the numbers from the place `from` on, as many as fit, with the halves of heads one after the other.
    pub fn read(&self, from: usize, out: &mut [f32]) -> Result<()> {
        let Some(rows) = self.head_rows else { return self.dequantise(from, out) };
        if rows == 0 || !rows.is_multiple_of(2) {
            candle_core::bail!("heads of {rows} rows have no halves");
        }
        let (mut from, mut out) = (from, out);
        while !out.is_empty() {
            let (row, column) = (from / self.row, from % self.row);
            let (head, within) = (row / rows, row % rows);
            let (half, index) = (within / (rows / 2), within % (rows / 2));
            let count = (self.row - column).min(out.len());
            let (now, later) = out.split_at_mut(count);
            self.dequantise((head * rows + 2 * index + half) * self.row + column, now)?;
            (from, out) = (from + count, later);
        }
        Ok(())
    }

    /// The same in the order of the file.
    fn dequantise(&self, from: usize, out: &mut [f32]) -> Result<()> {
        let block = self.dtype.block_size();
        let blocks = from / block..(from + out.len()).div_ceil(block);
        if !self.len.is_multiple_of(block) || blocks.end * block > self.len {
            candle_core::bail!("{} numbers in blocks of {block}", self.len);
        }
        let mut bytes = vec![0; blocks.len() * self.dtype.type_size()];
        self.file.read_exact_at(&mut bytes, self.at + (blocks.start * self.dtype.type_size()) as u64)?;
        let numbers = qtensor_from_ggml(self.dtype, &bytes, vec![blocks.len() * block], &Device::Cpu)?;
        let skipped = from - blocks.start * block;
        with_f32(&numbers.dequantize(&Device::Cpu)?, |numbers| {
            out.copy_from_slice(&numbers[skipped..skipped + out.len()]);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use candle_core::quantized::QTensor;

    use super::*;

    #[test]
    fn any_part_is_as_the_whole() {
        let (rows, row) = (24, 512);
        let numbers: Vec<f32> = (0..rows * row).map(|i| (i as f32 * 0.37).sin()).collect();
        let tensor = Tensor::from_vec(numbers, (rows, row), &Device::Cpu).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.gguf");
        for dtype in [GgmlDType::Q4K, GgmlDType::Q6K, GgmlDType::Q8_0, GgmlDType::BF16, GgmlDType::F16, GgmlDType::F32]
        {
            let quantised = QTensor::quantize(&tensor, dtype).unwrap();
            let whole = quantised.dequantize(&Device::Cpu).unwrap();
            std::fs::write(&path, [b"something before", &quantised.data().unwrap()[..]].concat()).unwrap();
            let file = File::open(&path).unwrap();
            for head_rows in [None, Some(8)] {
                let parts = Quantised { file: &file, at: 16, dtype, len: rows * row, row, head_rows };
                let expected = match head_rows {
                    None => whole.clone(),
                    Some(head) => {
                        let halves = whole.reshape((rows / head, head / 2, 2, row)).unwrap();
                        halves.transpose(1, 2).unwrap().contiguous().unwrap()
                    }
                };
                let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for range in [0..rows * row, 0..1, 777..778, 100..9000, rows * row - 600..rows * row] {
                    let mut out = vec![f32::NAN; range.len()];
                    parts.read(range.start, &mut out).unwrap();
                    assert_eq!(out, expected[range.clone()], "{dtype:?} {head_rows:?} {range:?}");
                }
                assert!(parts.read(rows * row - 1, &mut [0.0; 2]).is_err(), "there is no more");
            }
        }
    }
}
