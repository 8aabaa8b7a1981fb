//! Objects that are compressed with gzip, as the files of S3 inventories are.
//!
//! A compressed object cannot be entered in its middle: a window in it fetches and unpacks what is before it, and drops
//! that. It costs time for each window, but no memory; and however much a few bytes unpack to, they are unpacked a
//! piece at a time.

use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use flate2::bufread::MultiGzDecoder;

use super::error::ReadError;

/// Unpacked bytes that are given at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Unpacks an object, and gives what is behind an offset of its unpacked bytes.
#[derive(Debug)]
pub(super) struct Gunzip {
    decoder: MultiGzDecoder<Packed>,
    /// The packed bytes that were pushed.
    received: u64,
    skip: u64,
}

/// What [`Gunzip::pull`] gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unpacked {
    /// Some bytes; none of them where all were before the offset.
    Piece(Vec<u8>),
    /// [`Gunzip::push`] more.
    More,
    End,
}

impl Gunzip {
    pub(super) fn new(offset: u64) -> Gunzip {
        let packed = Packed { bytes: Bytes::new(), last: false };
        Gunzip { decoder: MultiGzDecoder::new(packed), received: 0, skip: offset }
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn push(&mut self, bytes: Bytes, last: bool) {
        self.received += bytes.len() as u64;
        *self.decoder.get_mut() = Packed { bytes, last };
    }

    pub(super) fn pull(&mut self) -> Result<Unpacked, ReadError> {
        let mut piece = vec![0; PIECE_BYTES];
        match self.decoder.read(&mut piece) {
            Ok(0) => Ok(Unpacked::End),
            Ok(length) => {
                let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(length);
                self.skip -= skipped as u64;
                piece.truncate(length);
                piece.drain(..skipped);
                Ok(Unpacked::Piece(piece))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Unpacked::More),
            Err(error) => Err(ReadError::new(format!("it cannot be unpacked with gzip: {error}"))),
        }
    }
}

/// Packed bytes that were not unpacked yet. Where there are none, but others follow, reading them would block: the
/// decoder passes that on and goes on where it was when it is asked again.
#[derive(Debug)]
struct Packed {
    bytes: Bytes,
    last: bool,
}

impl BufRead for Packed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() && !self.last {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes)
    }

    fn consume(&mut self, amount: usize) {
        self.bytes.advance(amount);
    }
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.bytes[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(packed: &[u8], chunk: usize, offset: u64) -> Result<Vec<u8>, ReadError> {
        let mut gunzip = Gunzip::new(offset);
        let mut unpacked = Vec::new();
        loop {
            match gunzip.pull()? {
                Unpacked::Piece(piece) => unpacked.extend(piece),
                Unpacked::More => {
                    let from = usize::try_from(gunzip.received()).unwrap();
                    let to = packed.len().min(from + chunk);
                    gunzip.push(Bytes::copy_from_slice(&packed[from..to]), to == packed.len());
                }
                Unpacked::End => return Ok(unpacked),
            }
        }
    }

    #[test]
    fn chunks_of_any_size_unpack_from_any_offset() {
        let text: Vec<u8> = (0..50_000_u32).flat_map(|n| format!("row {n}\n").into_bytes()).collect();
        let packed = pack(&text);
        // Files are put together of several members.
        let (first, second) = text.split_at(123_456);
        let members = [pack(first), pack(second)].concat();
        for packed in [&packed, &members] {
            for chunk in [1, 7, 4096, 1 << 20] {
                for offset in [0, 1, 123_456, 300_000, text.len()] {
                    assert_eq!(unpack(packed, chunk, offset as u64).unwrap(), &text[offset..]);
                }
            }
        }
    }

    #[test]
    fn what_is_not_gzip_is_an_error() {
        let packed = pack(b"some text");
        assert!(unpack(b"some text", 100, 0).is_err());
        assert!(unpack(&packed[..packed.len() - 3], 5, 0).is_err());
        let mut damaged = packed;
        let checksum = damaged.len() - 6;
        damaged[checksum] ^= 1;
        assert!(unpack(&damaged, 5, 0).is_err());
    }

    #[test]
    fn a_bomb_is_unpacked_a_piece_at_a_time() {
        let mut gunzip = Gunzip::new(0);
        gunzip.push(pack(&vec![0; 32 << 20]).into(), true);
        let Unpacked::Piece(piece) = gunzip.pull().unwrap() else { panic!("there are bytes") };
        assert!(piece.len() <= PIECE_BYTES);
    }
}
