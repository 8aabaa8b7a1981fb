//! Files below one directory that the operator has allowed.

use std::{
    io::SeekFrom,
    path::{Component, Path, PathBuf},
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _},
};

use super::{
    error::ReadError,
    source::Chunk,
    writer::{Files, Upload, WriteError},
};

/// Files that definitions may name: those below one directory, also by way of symbolic links.
#[derive(Debug, Clone)]
pub struct LocalFiles {
    root: PathBuf,
}

impl LocalFiles {
    /// Allows the files below `root`.
    pub fn new(root: impl Into<PathBuf>) -> LocalFiles {
        LocalFiles { root: root.into() }
    }

    /// At most `length` bytes of a file from `offset` on.
    pub(super) async fn read(&self, path: &str, offset: u64, length: usize) -> Result<Chunk, ReadError> {
        let file = self.existing(path).await?;
        let failed =
            |e: std::io::Error| ReadError::new(format!("the file '{path}' cannot be read: {}", e.kind()));
        let metadata = tokio::fs::metadata(&file).await.map_err(failed)?;
        // Opening a pipe would wait for a writer.
        if !metadata.is_file() {
            return Err(ReadError::new(format!("'{path}' is no file")));
        }
        let mut file = File::open(&file).await.map_err(failed)?;
        let metadata = file.metadata().await.map_err(failed)?;
        let modified = metadata.modified().map_err(failed)?;
        let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let version = format!("{}-{modified}", metadata.len());
        file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
        let rest = usize::try_from(metadata.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(rest)];
        file.read_exact(&mut bytes).await.map_err(failed)?;
        Ok(Chunk { last: rest <= length, bytes: Bytes::from(bytes), version })
    }

    /// The real path of a file, which is below the directory.
    async fn existing(&self, path: &str) -> Result<PathBuf, ReadError> {
        let relative = relative(path)?;
        let root = tokio::fs::canonicalize(&self.root).await.map_err(|e| {
            ReadError::new(format!("the directory of local files cannot be read: {}", e.kind()))
        })?;
        let file = tokio::fs::canonicalize(root.join(relative))
            .await
            .map_err(|e| ReadError::new(format!("the file '{path}' cannot be read: {}", e.kind())))?;
        if file.starts_with(&root) {
            Ok(file)
        } else {
            Err(ReadError::new(format!("the file '{path}' is not below the directory of local files")))
        }
    }
}

/// A path without a root and without steps upwards.
pub(super) fn relative(path: &str) -> Result<&Path, ReadError> {
    let relative = Path::new(path);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if path.is_empty() || path.contains('\0') || !relative.components().all(plain) {
        return Err(ReadError::new(
            "Path must be relative to the directory of local files, without '..'".to_owned(),
        ));
    }
    Ok(relative)
}

#[async_trait]
impl Files for LocalFiles {
    async fn create<'a>(&'a self, name: &str) -> Result<Box<dyn Upload + 'a>, WriteError> {
        let target = self.target(name).await?;
        let mut unfinished = target.clone().into_os_string();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let file = File::create(&unfinished).await.map_err(|e| unwritable(name, &e))?;
        Ok(Box::new(LocalUpload { name: name.to_owned(), file, unfinished, target }))
    }
}

impl LocalFiles {
    /// Where a new file goes; its directories are made.
    async fn target(&self, name: &str) -> Result<PathBuf, WriteError> {
        let relative = relative(name).map_err(|e| WriteError::new(e.cause()))?;
        let failed = |e: std::io::Error| unwritable(name, &e);
        let root = tokio::fs::canonicalize(&self.root).await.map_err(failed)?;
        let target = root.join(relative);
        let (Some(directory), Some(file)) = (target.parent(), target.file_name()) else {
            return Err(WriteError::new(format!("'{name}' names no file")));
        };
        // A link on the way may lead outside: look at how far there is one before making anything.
        let there = directory.ancestors().find(|path| path.exists()).unwrap_or(&root);
        let inside = |path: &Path| path.starts_with(&root);
        if !tokio::fs::canonicalize(there).await.is_ok_and(|path| inside(&path)) {
            return Err(WriteError::new(format!(
                "the file '{name}' is not below the directory of local files"
            )));
        }
        tokio::fs::create_dir_all(directory).await.map_err(failed)?;
        let directory = tokio::fs::canonicalize(directory).await.map_err(failed)?;
        Ok(directory.join(file))
    }
}

fn unwritable(name: &str, error: &std::io::Error) -> WriteError {
    WriteError::new(format!("the file '{name}' cannot be written: {}", error.kind()))
}

/// A file under another name until it is whole.
struct LocalUpload {
    name: String,
    file: File,
    unfinished: PathBuf,
    target: PathBuf,
}

#[async_trait]
impl Upload for LocalUpload {
    async fn part(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.file.write_all(&bytes).await.map_err(|e| unwritable(&self.name, &e))
    }

    async fn finish(mut self: Box<Self>, bytes: Bytes) -> Result<(), WriteError> {
        let failed = |e: std::io::Error| unwritable(&self.name, &e);
        self.file.write_all(&bytes).await.map_err(failed)?;
        self.file.sync_all().await.map_err(failed)?;
        tokio::fs::rename(&self.unfinished, &self.target).await.map_err(failed)
    }

    async fn abort(self: Box<Self>) {
        if let Err(error) = tokio::fs::remove_file(&self.unfinished).await {
            tracing::debug!(%error, "an unfinished result file stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("stagepost-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[tokio::test]
    async fn ranges_of_a_file_are_read() {
        let root = directory("ranges");
        std::fs::write(root.join("a.txt"), "0123456789").unwrap();
        let files = LocalFiles::new(&root);
        let whole = files.read("a.txt", 0, 100).await.unwrap();
        assert_eq!((&whole.bytes[..], whole.last), (&b"0123456789"[..], true));
        let middle = files.read("./a.txt", 3, 4).await.unwrap();
        assert_eq!((&middle.bytes[..], middle.last), (&b"3456"[..], false));
        let end = files.read("a.txt", 6, 4).await.unwrap();
        assert_eq!((&end.bytes[..], end.last), (&b"6789"[..], true));
        let behind = files.read("a.txt", 10, 4).await.unwrap();
        assert_eq!((&behind.bytes[..], behind.last), (&b""[..], true));
        assert_eq!(whole.version, end.version);
        std::fs::write(root.join("a.txt"), "0123456789+").unwrap();
        assert_ne!(files.read("a.txt", 0, 1).await.unwrap().version, whole.version);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn nothing_outside_the_directory_is_read() {
        let root = directory("outside");
        let allowed = root.join("allowed");
        std::fs::create_dir_all(allowed.join("sub")).unwrap();
        std::fs::write(root.join("secret.txt"), "secret").unwrap();
        std::fs::write(allowed.join("open.txt"), "open").unwrap();
        std::os::unix::fs::symlink(root.join("secret.txt"), allowed.join("link.txt")).unwrap();
        std::os::unix::fs::symlink(allowed.join("open.txt"), allowed.join("sub/good.txt")).unwrap();
        let files = LocalFiles::new(&allowed);
        assert!(files.read("open.txt", 0, 10).await.is_ok());
        assert!(files.read("sub/good.txt", 0, 10).await.is_ok());
        let absolute = root.join("secret.txt");
        for path in [
            "../secret.txt",
            "sub/../../secret.txt",
            absolute.to_str().unwrap(),
            "link.txt",
            "",
            "none.txt",
            "sub",
            "a\0b",
        ] {
            assert!(files.read(path, 0, 10).await.is_err(), "{path}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
