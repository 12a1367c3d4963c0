//! Codes and customers, made up so that any of them can be made again, no two are equal, and nothing needs to be kept.
//!
//! A code is 60 bits in 12 letters: 50 bits that look random, then 10 bits that name its series (one lot or one file).
//! The alphabet is in the order of bytes, so codes sort like their numbers.

use std::io::{self, Write};

use anyhow::Context as _;

const ALPHABET: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
const HIGH: u64 = (1 << 50) - 1;

/// A code as a number.
pub type Code = u64;

/// `number`'s place in a random-looking order of all 50-bit numbers. One to one.
pub fn shuffled(number: u64) -> u64 {
    let mut it = number & HIGH;
    for factor in [0x2_F6D3_9B1C_8E35, 0x1_7A25_64C9_B3AD, 0x3_D4E1_5F0B_6A97_u64] {
        it = it.wrapping_mul(factor) & HIGH;
        it ^= it >> 27;
    }
    it
}

/// The numbers below `many`, in no order.
pub fn any_order(many: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..many).collect();
    numbers.sort_unstable_by_key(|number| shuffled(*number));
    numbers
}

/// Code `index` of a file that comes in any order.
pub fn of_file(series: u16, index: u64) -> Code {
    shuffled(index) << 10 | u64::from(series)
}

/// Code `index` of a lot of `size` codes whose codes are in order, as coupond puts them.
pub fn of_lot(series: u16, index: u64, size: u64) -> Code {
    let stride = (HIGH + 1) / size;
    let high = index * stride + shuffled(index << 10 | u64::from(series)) % stride;
    high << 10 | u64::from(series)
}

/// The 12 letters.
pub fn letters(code: Code) -> [u8; 12] {
    let mut text = [0; 12];
    for (place, letter) in text.iter_mut().enumerate() {
        *letter = ALPHABET.get((code >> (55 - 5 * place) & 31) as usize).copied().unwrap_or_default();
    }
    text
}

/// What [`letters`] made of it.
pub fn read(text: &[u8]) -> anyhow::Result<Code> {
    anyhow::ensure!(text.len() == 12, "a code of {} letters", text.len());
    text.iter().try_fold(0, |code: u64, letter| {
        let digit = ALPHABET.iter().position(|known| known == letter).context("a letter that no code has")?;
        Ok(code << 5 | digit as u64)
    })
}

/// Customer number `index`, as a campaign system would name them.
pub fn write_customer(out: &mut impl Write, index: u64) -> io::Result<()> {
    let text = letters(shuffled(index) << 10);
    out.write_all(b"C-")?;
    out.write_all(text.get(..10).unwrap_or_default())
}

/// A file with one column `code`.
pub fn write_file(path: &std::path::Path, codes: impl Iterator<Item = Code>) -> anyhow::Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("make `{}`", path.display()))?;
    let mut out = io::BufWriter::with_capacity(1 << 20, file);
    out.write_all(b"code\n")?;
    for code in codes {
        out.write_all(&letters(code))?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
