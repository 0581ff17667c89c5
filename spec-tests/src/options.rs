//! The command line of the suite.

use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "\
usage: spec-tests --runtime PATH [options]
       spec-tests --list
       spec-tests demo --runtime PATH
       spec-tests sweep --runtime PATH [--every N] [--command NAME] [--fault kill|errno] [--from N] [--to N]
       spec-tests shim-sweep --shim PATH --runtime PATH [--every N] [--step NAME] [--from N] [--to N]
       spec-tests shim-walk --shim PATH --runtime PATH [--seconds N] [--clients N] [--seed N]
       spec-tests policy --runtime PATH [-- COMMAND...]

  --runtime PATH       the runtime under test
  --filter TEXT,...    only cases whose name or sentence contains one of these
  --exclude TEXT,...   no cases whose name contains one of these
  --format FORMAT      text (default), tap or junit
  --jobs N             cases at a time (default: the number of processors)
  --soak N             repetitions of the repeating cases (default: 1000)
  --patience N         every limit in time N times as long (default: 1), for an emulated machine
  --systemd-cgroup     call the runtime with it: each container is a scope of systemd's
  --compare PATH       run the same bundles under both runtimes and compare what the probe prints
  --alone              nothing else runs on this machine: anything new after the run is a leftover
  --keep               keep the directory of each failed case
  --list               list the cases
  --coverage           print COVERAGE.md: which case checks which sentence of the specification
  --coverage-of DIR    sentences of the specification in DIR that the table does not name
  --security-coverage  print SECURITY-COVERAGE.md: which test holds which row of the security catalogue";

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
    /// Texts of which a case's name or sentence must contain one; none for all cases.
    pub filter: Vec<String>,
    /// Texts of which a case's name must contain none.
    pub exclude: Vec<String>,
    /// How results are printed.
    pub format: Format,
    /// Cases at a time.
    pub jobs: usize,
    /// Repetitions of the repeating cases.
    pub soak: usize,
    /// What limits in time are multiplied by.
    pub patience: u32,
    /// Whether the runtime is to make cgroups by systemd.
    pub systemd: bool,
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
    /// The table of sentences is to be printed, or held against the specification in a directory.
    Coverage(Option<PathBuf>),
    /// The table of rows of the security catalogue is to be printed.
    SecurityCoverage,
    /// The usage is to be printed.
    Help,
}

/// Reads the command line.
pub fn parse(arguments: &[String]) -> Result<Parsed, String> {
    let mut options = Options {
        runtime: PathBuf::new(),
        filter: Vec::new(),
        exclude: Vec::new(),
        format: Format::Text,
        jobs: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
        soak: 1000,
        patience: 1,
        systemd: false,
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
            "--filter" => options.filter.extend(value()?.split(',').map(str::to_owned)),
            "--exclude" => options.exclude.extend(value()?.split(',').map(str::to_owned)),
            "--format" => options.format = format(&value()?)?,
            "--jobs" => options.jobs = number(value()?)?.max(1),
            "--soak" => options.soak = number(value()?)?,
            "--patience" => options.patience = u32::try_from(number(value()?)?).unwrap_or(u32::MAX).max(1),
            "--systemd-cgroup" => options.systemd = true,
            "--compare" => options.compare = Some(PathBuf::from(value()?)),
            "--alone" => options.alone = true,
            "--keep" => options.keep = true,
            "--security-coverage" => return Ok(Parsed::SecurityCoverage),
            "--coverage" => return Ok(Parsed::Coverage(None)),
            "--coverage-of" => return Ok(Parsed::Coverage(Some(PathBuf::from(value()?)))),
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
        let Ok(Parsed::Run(options)) = parse(&words(
            "--runtime=/x --filter a3_,b4_ --exclude cost_ --format tap --jobs=3 --alone --patience 4 --systemd-cgroup",
        )) else {
            panic!("no run");
        };
        assert_eq!(options.runtime, PathBuf::from("/x"));
        assert_eq!(
            (options.filter, options.exclude),
            (vec!["a3_".into(), "b4_".into()], vec!["cost_".into()])
        );
        assert_eq!((options.format, options.jobs, options.alone), (Format::Tap, 3, true));
        assert_eq!((options.soak, options.patience, options.systemd), (1000, 4, true));
        assert!(parse(&words("--runtime")).is_err());
        assert!(parse(&words("--runtime /x --format xml")).is_err());
        assert!(parse(&words("--nonsense")).is_err());
    }
}
