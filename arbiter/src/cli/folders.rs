//! Which log folders a path means: a data folder has one a partition, named by its number.

use super::output::{Failure, exit};
use std::path::{Path, PathBuf};

/// The log folders that `path` means, in the order of their partitions: itself if it has segments or a mark.
///
/// # Errors
/// It cannot be read, or is neither.
pub(crate) fn log_folders(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new("log", exit::LOG, format!("cannot read {}: {error}", path.display()))
            .help("name the data folder of an arbiter, or a folder of one partition in it")
    };
    let mut partitions: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == "durable" || name.ends_with(".log") {
            return Ok(vec![path.to_owned()]);
        }
        if let Ok(number) = name.parse()
            && entry.path().is_dir()
        {
            partitions.push((number, entry.path()));
        }
    }
    if partitions.is_empty() {
        let what = format!("{} has no grant log", path.display());
        return Err(Failure::new("log", exit::LOG, what)
            .help("name the data folder of an arbiter, or a folder of one partition in it"));
    }
    partitions.sort();
    Ok(partitions.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_means_its_partitions_in_order() {
        let data = tempfile::tempdir().unwrap();
        for name in ["10", "2", "0", "notes"] {
            std::fs::create_dir(data.path().join(name)).unwrap();
        }
        let found = log_folders(data.path()).unwrap();
        assert_eq!(found, ["0", "2", "10"].map(|name| data.path().join(name)));
        std::fs::write(data.path().join("2/durable"), "").unwrap();
        assert_eq!(log_folders(&data.path().join("2")).unwrap(), [data.path().join("2")]);
        assert_eq!(log_folders(&data.path().join("0")).unwrap_err().exit, exit::LOG);
        assert_eq!(log_folders(&data.path().join("nowhere")).unwrap_err().exit, exit::LOG);
    }
}
