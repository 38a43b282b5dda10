//! The workload of SPECweb2005's "Support": a site where users look for drivers and download them. Published
//! parameters, and a generator of our own.
//!
//! Sizes here are the original ones; [`super::scale`] divides them.

use std::time::Duration;

use anyhow::Context as _;
use rand::{Rng, RngExt as _};
use rand_distr::Zipf;

/// Directories per simultaneous session.
const DIRECTORIES_PER_SESSION: f64 = 0.25;
/// Popularity of the directories.
const ZIPF_EXPONENT: f64 = 1.2;
/// How many of the paper's 450 directories Fig. 9 leaves where they land.
const LOCAL_SHARE: f64 = 9.0 / 450.0;
/// Share of requests before which a user thinks, for how long on average, and at most.
const THINKS: f64 = 0.9208;
const THINK_MEAN: f64 = 5.0;
const THINK_CAP: f64 = 75.0;
/// Sizes of the images of a page, the smallest and the largest.
const IMAGE_BYTES: (f64, f64) = (30.0, 5670.0);

/// A page of the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Home,
    Search,
    Catalog,
    Product,
    FileCatalog,
    File,
    /// Not a page, but one of the large files.
    Download,
}

impl Page {
    /// Those that are made by the application server.
    pub(super) const DYNAMIC: [Page; 6] = [
        Page::Home,
        Page::Search,
        Page::Catalog,
        Page::Product,
        Page::FileCatalog,
        Page::File,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Page::Home => "home",
            Page::Search => "search",
            Page::Catalog => "catalog",
            Page::Product => "product",
            Page::FileCatalog => "filecatalog",
            Page::File => "file",
            Page::Download => "download",
        }
    }

    /// Bytes of the dynamic page; 0 for a download, whose size is the file's.
    pub(super) fn padding(self) -> u64 {
        match self {
            Page::Home => 51_700,
            Page::Search => 18_000,
            Page::Catalog => 27_500,
            Page::Product => 52_700,
            Page::FileCatalog => 94_500,
            Page::File => 113_300,
            Page::Download => 0,
        }
    }

    /// How many images belong to it.
    pub(super) fn images(self) -> u8 {
        match self {
            Page::Home => 10,
            Page::Search => 9,
            Page::Catalog => 8,
            Page::Product => 28,
            Page::FileCatalog | Page::File => 25,
            Page::Download => 0,
        }
    }

    /// Bytes of its image of this number: from the smallest to the largest, each larger by the same factor.
    pub(super) fn image_bytes(self, number: u8) -> u64 {
        let last = f64::from(self.images().saturating_sub(1).max(1));
        let (least, most) = IMAGE_BYTES;
        (least * (most / least).powf(f64::from(number) / last)).round() as u64
    }

    /// What users do next, and how many of them; the rest leave.
    fn next(self) -> &'static [(f64, Page)] {
        match self {
            Page::Home => &[(0.25, Page::Search), (0.75, Page::Catalog)],
            Page::Search => &[(0.5, Page::Product), (0.5, Page::Search)],
            Page::Catalog => &[(0.75, Page::Product), (0.25, Page::Search)],
            Page::Product => &[(0.8, Page::FileCatalog), (0.2, Page::Catalog)],
            Page::FileCatalog => &[(0.6, Page::File), (0.4, Page::Product)],
            Page::File => &[
                (0.5, Page::Download),
                (0.2, Page::FileCatalog),
                (0.05, Page::Product),
                (0.05, Page::Catalog),
                (0.1, Page::Search),
                (0.1, Page::Home),
            ],
            Page::Download => &[],
        }
    }

    /// The page that a user asks for after this one; a new user begins at home.
    pub(super) fn after(self, random: &mut impl Rng) -> Page {
        choose(self.next(), random.random()).unwrap_or(Page::Home)
    }
}

/// Files of about the same size: how popular they are, and their sizes with how popular each of them is.
struct Class {
    weight: f64,
    files: &'static [(f64, u64)],
}

/// The files of each directory.
const CLASSES: [Class; 6] = [
    Class {
        weight: 0.1366,
        files: &[
            (0.273, 104_858),
            (0.091, 209_716),
            (0.165, 314_574),
            (0.186, 419_432),
            (0.285, 524_290),
        ],
    },
    Class {
        weight: 0.1261,
        files: &[(0.579, 629_146), (0.178, 754_975), (0.243, 880_804)],
    },
    Class {
        weight: 0.2840,
        files: &[
            (0.275, 1_048_576),
            (0.170, 1_541_407),
            (0.170, 2_034_238),
            (0.385, 2_527_069),
        ],
    },
    Class {
        weight: 0.2232,
        files: &[(0.667, 4_194_304), (0.333, 5_546_967)],
    },
    Class {
        weight: 0.1250,
        files: &[(1.0, 9_992_929)],
    },
    Class {
        weight: 0.1051,
        files: &[(1.0, 37_748_736)],
    },
];

/// One of the large files: a directory, from 1, a class, and a file of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Download {
    pub(super) directory: u32,
    class: u8,
    file: u8,
}

impl Download {
    /// The files of a directory.
    pub(super) fn of(directory: u32) -> impl Iterator<Item = Self> {
        (0u8..).zip(&CLASSES).flat_map(move |(class, of)| {
            (0u8..).zip(of.files).map(move |(file, _)| Self {
                directory,
                class,
                file,
            })
        })
    }

    /// Its size in bytes.
    pub(super) fn bytes(self) -> u64 {
        let class = &CLASSES[usize::from(self.class)];
        class.files[usize::from(self.file)].1
    }

    /// What a client asks for.
    pub(super) fn uri(self) -> String {
        let Self { class, file, .. } = self;
        format!("{}file{class}-{file}", directory_uri(self.directory))
    }
}

/// The URI of a directory, with a slash at its end.
pub(super) fn directory_uri(directory: u32) -> String {
    format!("/downloads/dir{directory:010}/")
}

/// The URI of an image.
pub(super) fn image_uri(page: Page, number: u8) -> String {
    format!("/images/{}/{number}.gif", page.name())
}

/// What users do, at random.
pub(super) struct Model {
    pub(super) directories: u32,
    popularity: Zipf<f64>,
}

impl Model {
    /// The site for so many simultaneous sessions.
    pub(super) fn new(sessions: u32) -> anyhow::Result<Self> {
        let directories = (f64::from(sessions) * DIRECTORIES_PER_SESSION)
            .round()
            .max(1.0);
        let popularity = Zipf::new(directories, ZIPF_EXPONENT).context("too few sessions")?;
        Ok(Self {
            directories: directories as u32,
            popularity,
        })
    }

    /// How many of the most popular directories Fig. 9 leaves where they land: 9 of 450, and the same share of others.
    pub(super) fn local_directories(&self) -> u32 {
        let share = (f64::from(self.directories) * LOCAL_SHARE).round() as u32;
        share.clamp(1, self.directories)
    }

    /// A file that somebody downloads.
    pub(super) fn download(&self, random: &mut impl Rng) -> Download {
        let directory = random.sample(self.popularity) as u32;
        let weights = (0u8..).zip(&CLASSES).map(|(class, of)| (of.weight, class));
        let class = choose(&weights.collect::<Vec<_>>(), random.random()).unwrap_or(5);
        let files = (0u8..).zip(CLASSES[usize::from(class)].files);
        let weights: Vec<(f64, u8)> = files.map(|(file, (weight, _))| (*weight, file)).collect();
        let last = weights.len() as u8 - 1;
        Download {
            directory,
            class,
            file: choose(&weights, random.random()).unwrap_or(last),
        }
    }

    /// All files' bytes.
    pub(super) fn bytes(&self) -> u64 {
        let all: u64 = Download::of(1).map(Download::bytes).sum();
        all * u64::from(self.directories)
    }
}

/// How long a user thinks before a request.
pub(super) fn think(random: &mut impl Rng) -> Duration {
    if !random.random_bool(THINKS) {
        return Duration::ZERO;
    }
    // A number from 0 to 1, 1 excluded: its complement has a logarithm.
    let seconds = -THINK_MEAN * (1.0 - random.random::<f64>()).ln();
    Duration::from_secs_f64(seconds.min(THINK_CAP))
}

/// The one whose part of the weights `number`, from 0 to 1, is in; none when it is past all of them.
fn choose<T: Copy>(weights: &[(f64, T)], number: f64) -> Option<T> {
    let mut left = number;
    weights.iter().find_map(|(weight, one)| {
        left -= weight;
        (left < 0.0).then_some(*one)
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    /// What users visit in the long run, by the transitions alone.
    fn mix() -> [f64; 7] {
        let mut now = [0.0; 7];
        now[0] = 1.0;
        let mut visits = [0.0; 7];
        for _ in 0..1000 {
            let mut next = [0.0; 7];
            // After a download a user has left.
            visits[Page::Download as usize] += now[Page::Download as usize];
            for (page, share) in Page::DYNAMIC.iter().zip(now) {
                visits[*page as usize] += share;
                for (weight, to) in page.next() {
                    next[*to as usize] += weight * share;
                }
            }
            now = next;
        }
        visits
    }

    #[test]
    fn the_mix_of_pages_is_the_benchmarks() {
        let visits = mix();
        let all: f64 = visits.iter().sum();
        assert!((all - 14.8).abs() < 0.02, "{all} pages a session");
        let expected = [8.11, 12.61, 11.71, 24.77, 22.52, 13.51, 6.76];
        for (visits, percent) in visits.iter().zip(expected) {
            assert!((visits / all * 100.0 - percent).abs() < 0.02, "{percent}");
        }
    }

    #[test]
    fn generated_sessions_follow_the_transitions() {
        let mut random = StdRng::seed_from_u64(1);
        let (mut page, mut counts) = (Page::Download, [0u32; 7]);
        let all = 200_000;
        for _ in 0..all {
            page = page.after(&mut random);
            counts[page as usize] += 1;
        }
        let visits = mix();
        let sum: f64 = visits.iter().sum();
        for (count, share) in counts.iter().zip(visits) {
            let ours = f64::from(*count) / f64::from(all);
            assert!((ours - share / sum).abs() < 0.004, "{counts:?}");
        }
    }

    #[test]
    fn files_have_the_benchmarks_sizes() {
        let model = Model::new(1800).unwrap();
        assert_eq!((model.directories, model.local_directories()), (450, 9));
        assert_eq!(Download::of(7).count(), 16);
        assert!((model.bytes() as f64 / 1e9 - 30.8).abs() < 0.05);
        let local: u64 = (1..=9).flat_map(Download::of).map(Download::bytes).sum();
        assert!((local as f64 / 1e6 - 616.0).abs() < 0.5, "{local}");
        let first = Download::of(1).next().unwrap();
        assert_eq!(first.uri(), "/downloads/dir0000000001/file0-0");
        assert_eq!(first.bytes(), 104_858);
        // The steps within a class are the same.
        for class in &CLASSES[..3] {
            let steps: Vec<u64> = class.files.windows(2).map(|f| f[1].1 - f[0].1).collect();
            assert!(steps.iter().all(|step| *step == steps[0]), "{steps:?}");
        }
        let weights: f64 = CLASSES.iter().map(|class| class.weight).sum();
        assert!((weights - 1.0).abs() < 1e-9);
        for class in &CLASSES {
            let within: f64 = class.files.iter().map(|(weight, _)| weight).sum();
            assert!((within - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn downloads_are_drawn_as_popular_as_they_are() {
        let model = Model::new(1800).unwrap();
        let mut random = StdRng::seed_from_u64(2);
        let all = 100_000;
        let draws: Vec<Download> = (0..all).map(|_| model.download(&mut random)).collect();
        let share = |wanted: &dyn Fn(&Download) -> bool| {
            draws.iter().filter(|d| wanted(d)).count() as f64 / f64::from(all)
        };
        assert!(
            draws
                .iter()
                .all(|d| (1..=model.directories).contains(&d.directory))
        );
        assert!((share(&|d| d.directory <= 9) - 0.584).abs() < 0.006);
        for (number, class) in CLASSES.iter().enumerate() {
            let drawn = share(&|d| usize::from(d.class) == number);
            assert!((drawn - class.weight).abs() < 0.006, "{number}: {drawn}");
        }
        // By the definition, without drawing.
        let weights = |n: u32| {
            (1..=n)
                .map(|k| f64::from(k).powf(-ZIPF_EXPONENT))
                .sum::<f64>()
        };
        assert!((weights(9) / weights(450) - 0.584).abs() < 0.0005);
    }

    #[test]
    fn users_think_five_seconds_mostly() {
        let mut random = StdRng::seed_from_u64(3);
        let all = 100_000;
        let times: Vec<f64> = (0..all).map(|_| think(&mut random).as_secs_f64()).collect();
        let thinking = times.iter().filter(|t| **t > 0.0).count() as f64 / f64::from(all);
        assert!((thinking - THINKS).abs() < 0.005, "{thinking}");
        let mean = times.iter().sum::<f64>() / f64::from(all);
        assert!((mean - THINK_MEAN * THINKS).abs() < 0.1, "{mean}");
        assert!(times.iter().all(|t| *t <= THINK_CAP));
    }

    #[test]
    fn images_are_from_the_smallest_to_the_largest() {
        for page in Page::DYNAMIC {
            assert_eq!(page.image_bytes(0), 30);
            assert_eq!(page.image_bytes(page.images() - 1), 5670);
        }
        assert_eq!(image_uri(Page::Home, 3), "/images/home/3.gif");
    }
}
