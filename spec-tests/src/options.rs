//! The command line of the suite.

use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "\
usage: spec-tests --runtime PATH [options]
       spec-tests --list
       spec-tests demo --runtime PATH

  --runtime PATH       the runtime under test
  --filter TEXT        only cases whose name or sentence contains TEXT
  --format FORMAT      text (default), tap or junit
  --jobs N             cases at a time (default: the number of processors)
  --soak N             repetitions of the repeating cases (default: 1000)
  --patience N         every limit in time N times as long (default: 1), for an emulated machine
  --compare PATH       run the same bundles under both runtimes and compare what the probe prints
  --alone              nothing else runs on this machine: anything new after the run is a leftover
  --keep               keep the directory of each failed case
  --list               list the cases";

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One line a case, for people.
    Text,
    /// The Test Anything Protocol, version 13.
    Tap,
    /// JUnit's XML.
    Junit,
}

/// A run of the suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The runtime under test.
    pub runtime: PathBuf,
    /// Text that a case's name or sentence must contain.
    pub filter: Option<String>,
    /// How results are printed.
    pub format: Format,
    /// Cases at a time.
    pub jobs: usize,
    /// Repetitions of the repeating cases.
    pub soak: usize,
    /// What limits in time are multiplied by.
    pub patience: u32,
    /// The runtime to compare with.
    pub compare: Option<PathBuf>,
    /// Whether the machine is ours alone.
    pub alone: bool,
    /// Whether directories of failed cases stay.
    pub keep: bool,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Cases are to be run.
    Run(Options),
    /// Cases are to be listed.
    List,
    /// The usage is to be printed.
    Help,
}

/// Reads the command line.
pub fn parse(arguments: &[String]) -> Result<Parsed, String> {
    let mut options = Options {
        runtime: PathBuf::new(),
        filter: None,
        format: Format::Text,
        jobs: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
        soak: 1000,
        patience: 1,
        compare: None,
        alone: false,
        keep: false,
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let mut value =
            || attached.clone().or_else(|| words.next().cloned()).ok_or(format!("{name}: value missing"));
        let number =
            |text: String| text.parse::<usize>().map_err(|_| format!("{name}: {text:?} is no number"));
        match name {
            "--runtime" => options.runtime = PathBuf::from(value()?),
            "--filter" => options.filter = Some(value()?),
            "--format" => options.format = format(&value()?)?,
            "--jobs" => options.jobs = number(value()?)?.max(1),
            "--soak" => options.soak = number(value()?)?,
            "--patience" => options.patience = u32::try_from(number(value()?)?).unwrap_or(u32::MAX).max(1),
            "--compare" => options.compare = Some(PathBuf::from(value()?)),
            "--alone" => options.alone = true,
            "--keep" => options.keep = true,
            "--list" => return Ok(Parsed::List),
            "--help" | "-h" => return Ok(Parsed::Help),
            _ => return Err(format!("{word}: unknown option")),
        }
    }
    if options.runtime.as_os_str().is_empty() {
        return Err("--runtime PATH is needed".to_owned());
    }
    Ok(Parsed::Run(options))
}

fn format(name: &str) -> Result<Format, String> {
    match name {
        "text" => Ok(Format::Text),
        "tap" => Ok(Format::Tap),
        "junit" => Ok(Format::Junit),
        _ => Err(format!("--format: {name:?} is none of text, tap, junit")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_read_in_both_spellings() {
        let Ok(Parsed::Run(options)) =
            parse(&words("--runtime=/x --filter a3_ --format tap --jobs=3 --alone --patience 4"))
        else {
            panic!("no run");
        };
        assert_eq!(options.runtime, PathBuf::from("/x"));
        assert_eq!(options.filter.as_deref(), Some("a3_"));
        assert_eq!((options.format, options.jobs, options.alone), (Format::Tap, 3, true));
        assert_eq!((options.soak, options.patience), (1000, 4));
        assert!(parse(&words("--runtime")).is_err());
        assert!(parse(&words("--runtime /x --format xml")).is_err());
        assert!(parse(&words("--nonsense")).is_err());
    }
}
