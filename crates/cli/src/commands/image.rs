//! `weft image`: images in and out of volumes, without a mount.

use super::Context;
use crate::failure::{Failure, Outcome, While};
use crate::image::copy;
use crate::image::path::ImagePath;
use crate::image::source::Source;
use crate::image::target::{Format, Target};
use crate::locate;
use crate::output::{Listing, pairs};
use crate::units;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use weft_client::{Access, Client, ConnectError, ConnectOptions, FileHandle, FlushScope, OpenContents};
use weft_proto::namespace::{Credentials, NewInode, RenameMode};
use weft_types::{ErrorKind, FileKind, InodeNumber};

/// How long the commands wait for storage that is gone before they fail.
const PATIENCE: Duration = Duration::from_secs(30);
/// Directory entries asked for at once.
const PAGE_ENTRIES: u32 = 1024;
/// Owner may read and write, as QEMU running as root or the owner needs it.
const IMAGE_MODE: u16 = 0o600;
const DIRECTORY_MODE: u16 = 0o755;

#[derive(Subcommand)]
pub enum ImageCommand {
    /// Copy a raw or qcow2 image into a volume (as raw, holes kept)
    Import(ImportArguments),
    /// Copy an image out of a volume
    Export(ExportArguments),
    /// Make an empty image
    Create(CreateArguments),
    /// List the files of a volume
    List { volume: String },
    /// Show size and space of an image
    Info {
        #[arg(value_name = "VOLUME/PATH")]
        image: String,
    },
}

#[derive(Args)]
pub struct ImportArguments {
    source: PathBuf,
    #[arg(value_name = "VOLUME/PATH")]
    image: String,
}

#[derive(Args)]
pub struct ExportArguments {
    #[arg(value_name = "VOLUME/PATH")]
    image: String,
    target: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    format: Format,
}

#[derive(Args)]
pub struct CreateArguments {
    #[arg(value_name = "VOLUME/PATH")]
    image: String,
    /// Size, for example 20GiB; takes space only as it is written
    #[arg(long, value_parser = units::parse_bytes)]
    size: u64,
}

/// # Errors
/// As the commands say.
pub fn run(context: Context<'_>, command: &ImageCommand) -> Outcome {
    let identity = locate::identity_directory(context.cluster);
    match command {
        ImageCommand::Import(arguments) => {
            let path = ImagePath::parse(&arguments.image)?;
            // A bad source is refused before the cluster is spoken to.
            let source = Source::open(&arguments.source)?;
            with_client(&identity?, &path.volume, async |client| {
                import(context, client, &path, source, arguments).await
            })
        }
        ImageCommand::Export(arguments) => {
            let path = ImagePath::parse(&arguments.image)?;
            with_client(&identity?, &path.volume, async |client| export(context, client, &path, arguments).await)
        }
        ImageCommand::Create(arguments) => {
            let path = ImagePath::parse(&arguments.image)?;
            with_client(&identity?, &path.volume, async |client| create(context, client, &path, arguments.size).await)
        }
        ImageCommand::List { volume } => {
            super::check_name("volume", volume)?;
            with_client(&identity?, volume, async |client| list(context, client, volume).await)
        }
        ImageCommand::Info { image } => {
            let path = ImagePath::parse(image)?;
            with_client(&identity?, &path.volume, async |client| info(context, client, &path).await)
        }
    }
}

/// Opens a session for the time of one command.
fn with_client(identity: &Path, volume: &str, work: impl AsyncFnOnce(&Client) -> Outcome) -> Outcome {
    let done = weft_client::block_on(async {
        let mut options = ConnectOptions::new(identity);
        options.fail_after = Some(PATIENCE);
        let client = Client::connect(&options, volume, "weft image").await.map_err(|error| match error {
            ConnectError::NoVolume(_) => Failure::input(error.to_string()),
            other => Failure::failed(format!("could not open volume `{volume}`: {other}")),
        })?;
        let outcome = work(&client).await;
        let closed = client.close().await.doing("end the session");
        outcome.and(closed)
    });
    done.doing("start the event loop")?
}

#[derive(Serialize)]
struct Copied {
    image: String,
    format: &'static str,
    size_bytes: u64,
    data_bytes: u64,
    seconds: f64,
}

impl Copied {
    fn describe(&self, verb: &str) -> String {
        let rate = self.data_bytes as f64 / self.seconds.max(0.001);
        format!(
            "{verb} {} ({} image, {} with {} of data) in {:.1} s, {}/s",
            self.image,
            self.format,
            units::bytes(self.size_bytes),
            units::bytes(self.data_bytes),
            self.seconds,
            units::bytes(rate as u64)
        )
    }
}

async fn import(
    context: Context<'_>,
    client: &Client,
    path: &ImagePath,
    mut source: Source,
    arguments: &ImportArguments,
) -> Outcome {
    let began = Instant::now();
    let parent = directory(client, path).await?;
    refuse_existing(client, parent, path).await?;
    let draft = format!(".{}.import-{}", path.name, std::process::id());
    let draft = if draft.len() > weft_types::limits::MAX_NAME_BYTES {
        format!(".import-{}", std::process::id())
    } else {
        draft
    };
    let made = client.create_file(parent, draft.as_bytes(), IMAGE_MODE, Credentials::default(), Access::Write).await;
    let (_, file) = made.doing(format!("create a file in volume `{}`", path.volume))?;
    let bar = copy::progress(source.data_bytes(), &arguments.image);
    let copied = fill(&mut source, file, &bar).await;
    bar.finish_and_clear();
    let named = match copied {
        Ok(()) => client
            .rename(parent, draft.as_bytes(), parent, path.name.as_bytes(), RenameMode::NoReplace)
            .await
            .doing(format!("give {} its name", arguments.image)),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = named {
        // Half an image must not stay; should this fail too, the first failure is the one worth telling.
        let _ = client.unlink(parent, draft.as_bytes()).await;
        return Err(failure);
    }
    let result = Copied {
        image: arguments.image.clone(),
        format: source.format,
        size_bytes: source.size_bytes,
        data_bytes: source.data_bytes(),
        seconds: began.elapsed().as_secs_f64(),
    };
    context.audience.show(&result, |r| r.describe("imported"))
}

async fn fill(source: &mut Source, file: FileHandle, bar: &indicatif::ProgressBar) -> Outcome {
    let file = Rc::new(file);
    let filled = async {
        file.truncate(source.size_bytes).await.doing("set the size of the image")?;
        copy::import(source, &file, bar).await?;
        file.flush(FlushScope::DataAndTimes).await.doing("make the image durable")
    }
    .await;
    let closed = close(file).await;
    filled.and(closed)
}

/// Closes the file and says what that said; a file that is in use still is closed when its last user is done.
async fn close(file: Rc<FileHandle>) -> Outcome {
    match Rc::try_unwrap(file) {
        Ok(file) => file.close().await.doing("close the image"),
        Err(_) => Ok(()),
    }
}

async fn export(context: Context<'_>, client: &Client, path: &ImagePath, arguments: &ExportArguments) -> Outcome {
    let began = Instant::now();
    let record = find(client, path).await?;
    let size_bytes = record.attributes.size_bytes;
    let mut target = Target::create(&arguments.target, arguments.format, size_bytes)?;
    let file = client
        .open(record.attributes.inode, Access::Read, OpenContents::Keep)
        .await
        .doing(format!("open {}", arguments.image))?;
    let file = Rc::new(file);
    let copied = async {
        let ranges = copy::present_ranges(&file, size_bytes).await?;
        let data_bytes = ranges.iter().map(|r| r.end - r.start).sum();
        let bar = copy::progress(data_bytes, &arguments.image);
        let copied = copy::export(&file, &ranges, &mut target, &bar).await;
        bar.finish_and_clear();
        copied.map(|()| data_bytes)
    }
    .await;
    let closed = close(file).await;
    let data_bytes = copied?;
    closed?;
    target.finish()?;
    let result = Copied {
        image: arguments.image.clone(),
        format: if arguments.format == Format::Raw { "raw" } else { "qcow2" },
        size_bytes,
        data_bytes,
        seconds: began.elapsed().as_secs_f64(),
    };
    context.audience.show(&result, |r| r.describe("exported"))
}

async fn create(context: Context<'_>, client: &Client, path: &ImagePath, size_bytes: u64) -> Outcome {
    let parent = directory(client, path).await?;
    refuse_existing(client, parent, path).await?;
    let what = format!("create {}", path.within_volume());
    let made =
        client.create_file(parent, path.name.as_bytes(), IMAGE_MODE, Credentials::default(), Access::Write).await;
    let (_, file) = made.doing(&what)?;
    let sized = file.truncate(size_bytes).await.doing(&what);
    let closed = file.close().await.doing(&what);
    sized.and(closed)?;
    let image = format!("{}/{}", path.volume, path.within_volume());
    context.audience.show(&image, |image| format!("created {image} of {}", units::bytes(size_bytes)))
}

#[derive(Serialize)]
struct ImageRow {
    path: String,
    size_bytes: u64,
    allocated_bytes: u64,
    modified_seconds: i64,
}

async fn list(context: Context<'_>, client: &Client, volume: &str) -> Outcome {
    let mut rows = Vec::new();
    let mut directories: Vec<(InodeNumber, String)> = vec![(client.root(), String::new())];
    while let Some((inode, prefix)) = directories.pop() {
        let mut cookie = 0;
        loop {
            let page =
                client.read_directory(inode, cookie, PAGE_ENTRIES).await.doing(format!("list {volume}/{prefix}"))?;
            for entry in &page.entries {
                cookie = entry.cookie;
                let path = format!("{prefix}{}", String::from_utf8_lossy(&entry.name));
                let inode = entry.record.attributes.inode;
                match entry.record.attributes.kind {
                    FileKind::Directory => directories.push((inode, format!("{path}/"))),
                    FileKind::Regular => rows.push(row(client, inode, path).await?),
                    _ => {}
                }
            }
            if page.complete || page.entries.is_empty() {
                break;
            }
        }
    }
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    context.audience.show(&rows, |rows| {
        let mut table =
            Listing::new(&["image", ">size", ">space per replica", "modified (UTC)"], "no files in this volume");
        for row in rows {
            table.row([
                row.path.clone(),
                units::bytes(row.size_bytes),
                units::bytes(row.allocated_bytes),
                units::utc(row.modified_seconds),
            ]);
        }
        table.finish()
    })
}

async fn row(client: &Client, inode: InodeNumber, path: String) -> Outcome<ImageRow> {
    // Asked for by inode: the directory's copy may not know the size that a writer holds.
    let attributes = client.attributes(inode).await.doing(format!("read the attributes of {path}"))?;
    Ok(ImageRow {
        path,
        size_bytes: attributes.size_bytes,
        allocated_bytes: attributes.allocated_bytes,
        modified_seconds: attributes.modified.seconds,
    })
}

async fn info(context: Context<'_>, client: &Client, path: &ImagePath) -> Outcome {
    let record = find(client, path).await?;
    let row = row(client, record.attributes.inode, path.within_volume()).await?;
    context.audience.show(&row, |row| {
        pairs(&[
            ("image", format!("{}/{}", path.volume, row.path)),
            ("size", format!("{} ({} bytes)", units::bytes(row.size_bytes), row.size_bytes)),
            ("space per replica", units::bytes(row.allocated_bytes)),
            ("modified (UTC)", units::utc(row.modified_seconds)),
        ])
    })
}

async fn find(client: &Client, path: &ImagePath) -> Outcome<weft_proto::namespace::FileRecord> {
    let shown = format!("{}/{}", path.volume, path.within_volume());
    let record = client.resolve(&path.within_volume()).await.map_err(|error| match error {
        ErrorKind::NotFound | ErrorKind::NotDirectory => {
            Failure::input(format!("there is no {shown}: see `weft image list {}`", path.volume))
        }
        other => Failure::failed(format!("could not find {shown}: {other}")),
    })?;
    if record.attributes.kind == FileKind::Regular {
        return Ok(record);
    }
    Err(Failure::input(format!("{shown} is no regular file: only those are images")))
}

/// The directory that the image goes into; made where it is missing.
async fn directory(client: &Client, path: &ImagePath) -> Outcome<InodeNumber> {
    let mut parent = client.root();
    for name in &path.directories {
        let found = match client.lookup(parent, name.as_bytes()).await {
            Err(ErrorKind::NotFound) => {
                client
                    .create(parent, name.as_bytes(), NewInode::Directory, DIRECTORY_MODE, Credentials::default())
                    .await
            }
            other => other,
        };
        let record = found.doing(format!("find or make the directory `{name}`"))?;
        if record.attributes.kind != FileKind::Directory {
            return Err(Failure::input(format!("`{name}` is no directory: choose another path")));
        }
        parent = record.attributes.inode;
    }
    Ok(parent)
}

async fn refuse_existing(client: &Client, parent: InodeNumber, path: &ImagePath) -> Outcome {
    match client.lookup(parent, path.name.as_bytes()).await {
        Err(ErrorKind::NotFound) => Ok(()),
        Ok(_) => Err(Failure::input(format!(
            "{}/{} exists already: remove it or choose another name",
            path.volume,
            path.within_volume()
        ))),
        Err(error) => Err(Failure::failed(format!("could not look for {}: {error}", path.within_volume()))),
    }
}
