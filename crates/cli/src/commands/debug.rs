//! `weft debug`: a look into a disk's directory, beside a running node or without one. Changes nothing.

use super::Context;
use crate::failure::{Failure, Outcome, While};
use crate::output::{Listing, pairs};
use crate::units;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::{Path, PathBuf};
use weft_store::disk::DirEntryKind;
use weft_store::inspect::{self, ChunkDescription, ChunkFiles};
use weft_store::{Disk, RealDisk};
use weft_types::{ChunkId, ChunkIndex, ObjectId, PgId, VolumeId};

#[derive(Subcommand)]
pub enum DebugCommand {
    /// Show whose disk a directory is and what is on it
    Disk {
        /// Of the disk, as `weft dev status` and node.toml name it
        directory: PathBuf,
    },
    /// Check the blocks of one chunk, or of all of them, against their hashes
    Chunk(ChunkArguments),
    /// List the records of the journal
    Journal(JournalArguments),
}

#[derive(Args)]
pub struct ChunkArguments {
    /// Of the disk, as `weft dev status` and node.toml name it
    directory: PathBuf,
    /// Placement group, as VOLUME.GROUP; all of them if left out
    #[arg(long, value_parser = parse_group, requires = "chunk")]
    group: Option<PgId>,
    /// Chunk, as OBJECT:INDEX; all of them if left out
    #[arg(long, value_parser = parse_chunk, requires = "group")]
    chunk: Option<ChunkId>,
}

#[derive(Args)]
pub struct JournalArguments {
    /// Of the disk, as `weft dev status` and node.toml name it
    directory: PathBuf,
    /// Only records of this placement group, as VOLUME.GROUP
    #[arg(long, value_parser = parse_group)]
    group: Option<PgId>,
    /// Read no more records than this from where the journal begins
    #[arg(long, default_value_t = 1_000_000)]
    max: usize,
    /// Of those, show so many from the end
    #[arg(long, default_value_t = 50)]
    last: usize,
}

/// # Errors
/// When the directory is no disk, or does not read.
pub fn run(context: Context<'_>, command: &DebugCommand) -> Outcome {
    match command {
        DebugCommand::Disk { directory } => disk(context, directory),
        DebugCommand::Chunk(arguments) => chunk(context, arguments),
        DebugCommand::Journal(arguments) => journal(context, arguments),
    }
}

fn open(directory: &Path) -> Outcome<RealDisk> {
    RealDisk::new(directory).map_err(|e| {
        Failure::input(format!("could not open {}: {e}; name the directory of a disk", directory.display()))
    })
}

fn disk(context: Context<'_>, directory: &Path) -> Outcome {
    let view = inspect::describe_disk(&open(directory)?).doing(format!("look into {}", directory.display()))?;
    context.audience.show(&view, |disk| {
        let head = pairs(&[
            ("disk", disk.identity.disk.to_string()),
            ("cluster", disk.identity.cluster.to_string()),
            ("formatted by node", disk.identity.node.to_string()),
            ("state", disk.failed.clone().map_or_else(|| "active".to_owned(), |why| format!("FAILED: {why}"))),
            ("file system", format!("{:?}", disk.filesystem)),
            ("size", units::bytes(disk.usage.total_bytes)),
            ("free", units::bytes(disk.usage.free_bytes)),
            ("journal", format!("{} segments of {}", disk.segments, units::bytes(disk.segment_bytes.into()))),
            ("journal begins", format!("at lap {}", disk.first_live_lap)),
            ("synced at least to", disk.synced_to.to_string()),
            ("opened", format!("{} times", disk.openings)),
        ]);
        let mut groups = Listing::new(
            &["group", "log end", "committed", "applied", "complete to", ">sessions"],
            "no placement groups",
        );
        for group in &disk.groups {
            groups.row([
                group.pg.to_string(),
                group.log_end.to_string(),
                group.committed.to_string(),
                group.applied.to_string(),
                group.complete_to.to_string(),
                group.sessions.to_string(),
            ]);
        }
        format!("{head}\n\nas of the last checkpoint:\n{}", groups.finish())
    })
}

/// A chunk's file and what is in it.
#[derive(Serialize)]
struct ChunkShown {
    pg: PgId,
    chunk: ChunkId,
    #[serde(flatten)]
    file: ChunkDescription,
}

impl ChunkShown {
    fn bad_blocks(&self) -> usize {
        self.file.trailer.as_ref().map_or(0, |trailer| trailer.bad_blocks.len())
    }
}

fn chunk(context: Context<'_>, arguments: &ChunkArguments) -> Outcome {
    let disk = open(&arguments.directory)?;
    let wanted = match (arguments.group, arguments.chunk) {
        (Some(pg), Some(chunk)) => vec![(pg, chunk)],
        _ => chunks(&disk).doing(format!("list the chunks in {}", arguments.directory.display()))?,
    };
    let files = ChunkFiles::of(&disk).doing(format!("open the chunk files in {}", arguments.directory.display()))?;
    let mut shown = Vec::new();
    for (pg, chunk) in wanted {
        // One that is gone by now was deleted meanwhile.
        let found = files.describe(pg, chunk).doing(format!("look into chunk {chunk} of group {pg}"))?;
        shown.extend(found.map(|file| ChunkShown { pg, chunk, file }));
    }
    context.audience.show(&shown, |shown| describe_chunks(shown))?;
    let bad: usize = shown.iter().map(ChunkShown::bad_blocks).sum();
    let lost = shown.iter().filter(|chunk| chunk.file.newest_is_lost).count();
    if bad + lost == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{bad} blocks do not match their hashes and {lost} chunks have lost their trailers: reading or scrubbing them \
         through the cluster repairs them from another replica"
    )))
}

/// Chunks that have a file; blocks that are only in the journal so far are in none.
fn chunks(disk: &RealDisk) -> std::io::Result<Vec<(PgId, ChunkId)>> {
    const CHUNKS: &str = "chunks";
    let mut found = Vec::new();
    for group in disk.list(CHUNKS)? {
        let Ok(pg) = parse_group(&group.name) else { continue };
        for fanout in disk.list(&format!("{CHUNKS}/{}", group.name))? {
            if fanout.kind == DirEntryKind::Directory {
                let names = disk.list(&format!("{CHUNKS}/{}/{}", group.name, fanout.name))?;
                found.extend(names.iter().filter_map(|name| Some((pg, parse_file_name(&name.name)?))));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// `OBJECT-INDEX`, both hexadecimal (docs/ON-DISK.md, "Chunk files").
fn parse_file_name(name: &str) -> Option<ChunkId> {
    let (object, index) = name.split_once('-')?;
    let object = ObjectId(u64::from_str_radix(object, 16).ok()?);
    Some(ChunkId { object, index: ChunkIndex(u32::from_str_radix(index, 16).ok()?) })
}

fn version(file: &ChunkDescription) -> String {
    match &file.trailer {
        None => "no trailer".to_owned(),
        Some(trailer) if file.newest_is_lost => format!("{}, newer lost", trailer.version),
        Some(trailer) => trailer.version.to_string(),
    }
}

fn describe_chunks(shown: &[ChunkShown]) -> String {
    let mut table = Listing::new(&["group", "chunk", "version", ">end", ">blocks", ">bad", "file"], "no chunk files");
    for chunk in shown {
        let trailer = chunk.file.trailer.as_ref();
        table.row([
            chunk.pg.to_string(),
            chunk.chunk.to_string(),
            version(&chunk.file),
            trailer.map_or_else(String::new, |t| units::bytes(t.end_bytes.into())),
            trailer.map_or_else(String::new, |t| t.present_blocks.to_string()),
            chunk.bad_blocks().to_string(),
            chunk.file.path.clone(),
        ]);
    }
    let mut text = table.finish();
    for chunk in shown.iter().filter(|chunk| chunk.bad_blocks() > 0) {
        let bad = chunk.file.trailer.iter().flat_map(|t| &t.bad_blocks).map(ToString::to_string);
        text.push_str(&format!("\nbad blocks of chunk {}: {}", chunk.chunk, bad.collect::<Vec<_>>().join(", ")));
    }
    text
}

fn journal(context: Context<'_>, arguments: &JournalArguments) -> Outcome {
    let disk = open(&arguments.directory)?;
    let mut shown = inspect::describe_journal(&disk, arguments.max)
        .doing(format!("read the journal in {}", arguments.directory.display()))?;
    shown.records.retain(|record| arguments.group.is_none_or(|pg| pg == record.pg));
    let all = shown.records.len();
    shown.records.drain(..all.saturating_sub(arguments.last));
    context.audience.show(&shown, |shown| {
        let mut table =
            Listing::new(&[">lap", ">offset", "kind", "group", "position", "effect", ">size", "synced"], "no records");
        for record in &shown.records {
            table.row([
                record.at.lap.to_string(),
                record.at.offset.to_string(),
                record.kind.clone(),
                record.pg.to_string(),
                record.entry.as_ref().map_or_else(String::new, |e| e.position.to_string()),
                record.entry.as_ref().map_or_else(String::new, |e| effect(&e.effect)),
                units::bytes(record.bytes),
                if record.synced { "yes" } else { "no" }.to_owned(),
            ]);
        }
        let end = if shown.truncated { "more follow".to_owned() } else { format!("the journal ends at {}", shown.end) };
        let corruption = shown.corruption.as_ref().map_or_else(String::new, |why| format!("\nCORRUPT: {why}"));
        format!("{}\n{all} records; {end}{corruption}", table.finish())
    })?;
    match shown.corruption {
        None => Ok(()),
        Some(why) => Err(Failure::failed(format!("{why}: the disk has to be replaced"))),
    }
}

fn effect(effect: &weft_types::Effect) -> String {
    use weft_types::Effect::{DeleteChunk, DeleteObject, Discard, Fill, Nothing, Truncate, Write};
    use weft_types::PresentBlocks;
    match effect {
        Nothing => "nothing".to_owned(),
        Write { chunk, range, .. } => format!("write {chunk} blocks {}+{}", range.first, range.count),
        Discard { chunk, range, .. } => format!("discard {chunk} blocks {}+{}", range.first, range.count),
        Truncate { object, size_bytes, .. } => format!("truncate object {object} to {size_bytes}"),
        DeleteObject { object } => format!("delete object {object}"),
        DeleteChunk { chunk } => format!("delete chunk {chunk}"),
        Fill { chunk, range, absent_blocks, present, .. } => {
            let what = match present {
                PresentBlocks::Keep => "fill",
                PresentBlocks::Zero => "zero all, fill",
            };
            format!("{what} {absent_blocks} of {chunk} blocks {}+{}", range.first, range.count)
        }
    }
}

fn parse_group(text: &str) -> Result<PgId, String> {
    let wrong = || format!("`{text}` is no placement group: write VOLUME.GROUP, for example 1.7");
    let (volume, index) = text.split_once('.').ok_or_else(wrong)?;
    Ok(PgId { volume: VolumeId(volume.parse().map_err(|_| wrong())?), index: index.parse().map_err(|_| wrong())? })
}

fn parse_chunk(text: &str) -> Result<ChunkId, String> {
    let wrong = || format!("`{text}` is no chunk: write OBJECT:INDEX, for example 12:0");
    let (object, index) = text.split_once(':').ok_or_else(wrong)?;
    let object = ObjectId(object.parse().map_err(|_| wrong())?);
    Ok(ChunkId { object, index: ChunkIndex(index.parse().map_err(|_| wrong())?) })
}
