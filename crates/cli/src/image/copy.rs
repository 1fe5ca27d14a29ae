//! Moving an image between a source or target outside and a file of a volume, several pieces at a time.

use super::source::Source;
use super::target::Target;
use super::{PIECE_BYTES, PIECES_IN_FLIGHT};
use crate::failure::{Failure, Outcome, While};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use tokio::task::JoinSet;
use weft_client::{Durability, FileHandle};
use weft_types::ErrorKind;

/// Bytes that presence is asked for at once: bounds the answer.
const PRESENCE_WINDOW_BYTES: u64 = 1 << 30;

/// A bar with rate and time left; quiet when standard error is no terminal.
#[must_use]
pub fn progress(bytes: u64, name: &str) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    if let Ok(style) = ProgressStyle::with_template(
        "{msg} {bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}, {eta} left",
    ) {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    bar
}

/// Copies the data ranges of `source` into the file and leaves its holes alone. The file has its size already.
/// Pieces of nothing but zeros are left out too: a hole reads the same and takes no space.
///
/// # Errors
/// When a read or a write fails; what was written so far is not taken back.
pub async fn import(source: &mut Source, file: &Rc<FileHandle>, bar: &ProgressBar) -> Outcome {
    let mut under_way: JoinSet<Result<(), Failure>> = JoinSet::new();
    let copied = import_pieces(source, file, bar, &mut under_way).await;
    // After a failure nothing may go on writing behind our back.
    under_way.shutdown().await;
    copied
}

async fn import_pieces(
    source: &mut Source,
    file: &Rc<FileHandle>,
    bar: &ProgressBar,
    under_way: &mut JoinSet<Result<(), Failure>>,
) -> Outcome {
    for piece in pieces(&source.data.clone()) {
        let length = usize::try_from(piece.end - piece.start).doing("copy a piece")?;
        let mut buffer = vec![0u8; length];
        source.read(piece.start, &mut buffer).doing(format!("read the image at byte {}", piece.start))?;
        bar.inc(length as u64);
        if is_zero(&buffer) {
            continue;
        }
        if under_way.len() >= PIECES_IN_FLIGHT {
            finish_one(under_way).await?;
        }
        let file = Rc::clone(file);
        under_way.spawn_local(async move { write_all(&file, piece.start, Bytes::from(buffer)).await });
    }
    while !under_way.is_empty() {
        finish_one(under_way).await?;
    }
    Ok(())
}

async fn finish_one(under_way: &mut JoinSet<Result<(), Failure>>) -> Outcome {
    match under_way.join_next().await {
        None => Ok(()),
        Some(Ok(written)) => written,
        Some(Err(error)) => Err(Failure::failed(format!("copying was broken off: {error}"))),
    }
}

/// A write may be answered short, as write(2) is.
async fn write_all(file: &FileHandle, offset: u64, mut bytes: Bytes) -> Outcome {
    let mut at = offset;
    while !bytes.is_empty() {
        let written = file.write(at, bytes.clone(), Durability::Volume).await.map_err(|e| write_failure(&e))?;
        if written == 0 {
            return Err(write_failure(&ErrorKind::NoSpace));
        }
        bytes = bytes.split_off(written.min(bytes.len()));
        at += written as u64;
    }
    Ok(())
}

fn write_failure(error: &ErrorKind) -> Failure {
    match error {
        ErrorKind::NoSpace => Failure::failed(
            "the cluster's disks are full: delete something or add disks (see `weft cluster status`), then import again",
        ),
        other => Failure::failed(format!("could not write to the volume: {other}")),
    }
}

/// Copies what is present of the file into `target`; absent ranges stay holes there.
///
/// # Errors
/// When a read or a write fails.
pub async fn export(file: &Rc<FileHandle>, ranges: &[Range<u64>], target: &mut Target, bar: &ProgressBar) -> Outcome {
    // Reads run ahead in order, so that the target is written from front to back.
    let mut under_way = VecDeque::new();
    let mut upcoming = pieces(ranges);
    loop {
        while under_way.len() < PIECES_IN_FLIGHT
            && let Some(piece) = upcoming.next()
        {
            let (file, start, length) = (Rc::clone(file), piece.start, piece.end - piece.start);
            under_way
                .push_back((piece, tokio::task::spawn_local(async move { read_exactly(&file, start, length).await })));
        }
        let Some((piece, read)) = under_way.pop_front() else { return Ok(()) };
        let bytes = read.await.doing("read the volume")?.doing(format!("read the volume at byte {}", piece.start))?;
        if !is_zero(&bytes) {
            target.write(piece.start, &bytes)?;
        }
        bar.inc(piece.end - piece.start);
    }
}

async fn read_exactly(file: &FileHandle, offset: u64, length: u64) -> Result<Bytes, ErrorKind> {
    let length = u32::try_from(length).map_err(|_| ErrorKind::TooLarge)?;
    let bytes = file.read(offset, length).await?;
    if bytes.len() == length as usize {
        Ok(bytes)
    } else {
        Err(ErrorKind::Io("the file got shorter while it was read".to_owned()))
    }
}

/// Ranges of the file that are not holes.
///
/// # Errors
/// When the cluster does not answer.
pub async fn present_ranges(file: &FileHandle, size_bytes: u64) -> Outcome<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < size_bytes {
        let end = (at + PRESENCE_WINDOW_BYTES).min(size_bytes);
        for range in file.presence(at..end).await.doing("find the holes of the image")? {
            let range = range.start..range.end.min(size_bytes);
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        at = end;
    }
    Ok(ranges)
}

/// Cuts ranges at multiples of the piece size, so that a piece lies within one chunk and on whole blocks.
fn pieces(ranges: &[Range<u64>]) -> impl Iterator<Item = Range<u64>> + use<> {
    let mut rest: VecDeque<Range<u64>> = ranges.iter().cloned().collect();
    std::iter::from_fn(move || {
        let range = rest.pop_front()?;
        let cut = ((range.start / PIECE_BYTES + 1) * PIECE_BYTES).min(range.end);
        if cut < range.end {
            rest.push_front(cut..range.end);
        }
        Some(range.start..cut)
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    // Compared with itself shifted by one: one memcmp, which is the fastest way std offers.
    bytes.first().is_none_or(|first| *first == 0) && bytes.get(1..).is_none_or(|rest| rest == &bytes[..rest.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_ranges_and_never_cross_a_piece_boundary() {
        let ranges = [512..PIECE_BYTES + 1, 3 * PIECE_BYTES..5 * PIECE_BYTES];
        let cut: Vec<_> = pieces(&ranges).collect();
        assert_eq!(
            cut,
            [
                512..PIECE_BYTES,
                PIECE_BYTES..PIECE_BYTES + 1,
                3 * PIECE_BYTES..4 * PIECE_BYTES,
                4 * PIECE_BYTES..5 * PIECE_BYTES
            ]
        );
    }

    #[test]
    fn only_bytes_that_are_all_zero_count_as_a_hole() {
        assert!(is_zero(&[]) && is_zero(&[0]) && is_zero(&[0; 4096]));
        assert!(!is_zero(&[1]) && !is_zero(&[7; 64]));
        let mut last = [0u8; 4096];
        last[4095] = 1;
        assert!(!is_zero(&last));
    }
}
