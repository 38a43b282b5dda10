//! Each node's servers: nginx with its files on the node's disk, Tomcat for dynamic pages. And the files.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use dts_lab::{Lab, LabProcess, Place};

use super::model::{Download, Model, Page, image_uri};
use super::scale::Scale;

const NGINX: &str = include_str!("files/nginx.conf");
const SERVER_XML: &str = include_str!("files/server.xml");
const WEB_XML: &str = include_str!("files/web.xml");
const PAGE_JSP: &str = include_str!("files/page.jsp");

/// Where Debian's tomcat10-common puts Tomcat.
const CATALINA_HOME: &str = "/usr/share/tomcat10";
/// Tomcat's own memory, which isn't scaled, and isn't taken from the page cache's.
pub(super) const JAVA_OPTIONS: [&str; 7] = [
    "-Xms32m",
    "-Xmx64m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xss512k",
    "-XX:-UsePerfData",
    "-Djava.security.egd=file:/dev/urandom",
];
/// Until Tomcat has compiled its pages; a busy machine takes a while.
const START: Duration = Duration::from_secs(120);

/// Writes all nodes' files: the same for each, a copy on each node's disk.
pub(super) fn write_files(
    lab: &Lab,
    places: &[Place],
    model: &Model,
    scale: &Scale,
) -> anyhow::Result<()> {
    let all = model.bytes() / scale.factor * places.len() as u64;
    lab.check_disk_space(all)?;
    let roots: Vec<PathBuf> = places.iter().map(|place| www(lab, *place)).collect();
    for directory in 1..=model.directories {
        for file in Download::of(directory) {
            write(&roots, &file.uri(), scale.bytes(file.bytes()))?;
        }
    }
    for page in Page::DYNAMIC {
        for number in 0..page.images() {
            let bytes = scale.bytes(page.image_bytes(number));
            write(&roots, &image_uri(page, number), bytes)?;
        }
    }
    places
        .iter()
        .try_for_each(|place| Ok(lab.drop_disk_cache(*place)?))
}

/// Starts the servers of all nodes, and waits until they answer as they should.
pub(super) fn start(lab: &Lab, places: &[Place], scale: &Scale) -> anyhow::Result<()> {
    ensure!(
        Path::new(CATALINA_HOME).join("bin/bootstrap.jar").exists(),
        "no Tomcat in {CATALINA_HOME}: `cargo xtask bench table3` installs it, \
         or `apt install tomcat10-common default-jre-headless`"
    );
    let mut tomcats = Vec::new();
    for place in places {
        start_nginx(lab, *place)?;
        tomcats.push(start_tomcat(lab, *place, scale)?);
    }
    for (place, tomcat) in places.iter().zip(&tomcats) {
        for page in Page::DYNAMIC {
            let bytes = scale.page_bytes(page.padding());
            wait_for_page(lab, *place, tomcat, page, bytes)?;
        }
    }
    Ok(())
}

fn www(lab: &Lab, place: Place) -> PathBuf {
    lab.disk_dir(place).join("www")
}

fn start_nginx(lab: &Lab, place: Place) -> anyhow::Result<()> {
    let dir = lab.place_dir(place);
    fs::create_dir_all(dir.join("support-tmp"))?;
    let path = dir.join("support.conf");
    let config = NGINX
        .replace("{dir}", &dir.to_string_lossy())
        .replace("{www}", &www(lab, place).to_string_lossy())
        .replace("{node}", &place.to_string());
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&dir).arg("-c").arg(&path);
    command.arg("-e").arg(dir.join("support-error.log"));
    lab.spawn_on_disk(place, &command)
        .with_context(|| format!("nginx of {place}"))?;
    Ok(())
}

fn start_tomcat(lab: &Lab, place: Place, scale: &Scale) -> anyhow::Result<LabProcess> {
    let base = lab.place_dir(place).join("tomcat");
    let pages = base.join("webapps/ROOT/support");
    for dir in ["conf", "logs", "temp", "work", "webapps/ROOT/support"] {
        fs::create_dir_all(base.join(dir))?;
    }
    fs::write(base.join("conf/server.xml"), SERVER_XML)?;
    fs::write(base.join("conf/web.xml"), WEB_XML)?;
    for page in Page::DYNAMIC {
        let jsp = PAGE_JSP
            .replace("{page}", page.name())
            .replace("{images}", &page.images().to_string())
            .replace("{bytes}", &scale.page_bytes(page.padding()).to_string());
        fs::write(pages.join(format!("{}.jsp", page.name())), jsp)?;
    }
    let mut command = Command::new("java");
    command
        .args(JAVA_OPTIONS)
        .arg(format!("-Dcatalina.home={CATALINA_HOME}"))
        .arg(format!("-Dcatalina.base={}", base.display()))
        .arg(format!("-Djava.io.tmpdir={}", base.join("temp").display()))
        .arg("-classpath")
        .arg(format!(
            "{CATALINA_HOME}/bin/bootstrap.jar:{CATALINA_HOME}/bin/tomcat-juli.jar"
        ))
        .args(["org.apache.catalina.startup.Bootstrap", "start"]);
    lab.spawn(place, &command)
        .with_context(|| format!("Tomcat of {place}"))
}

/// Asks a node's own server for a page until it has all its bytes.
fn wait_for_page(
    lab: &Lab,
    place: Place,
    tomcat: &LabProcess,
    page: Page,
    bytes: u64,
) -> anyhow::Result<()> {
    let url = format!(
        "http://127.0.0.1/support/{}.jsp?u=1&q=4000000000",
        page.name()
    );
    let script =
        format!("curl -s -m 20 -o /dev/null -w '%{{http_code}} %{{size_download}}' '{url}'; true");
    let expected = format!("200 {bytes}");
    let until = Instant::now() + START;
    loop {
        let answer = lab.sh(place, &script)?;
        if answer == expected {
            return Ok(());
        }
        let log = || fs::read_to_string(tomcat.log_path()).unwrap_or_default();
        ensure!(tomcat.is_alive(), "Tomcat of {place} has ended:\n{}", log());
        if Instant::now() > until {
            bail!(
                "{place} answers {url} with `{answer}` (status and bytes), not `{expected}`:\n{}",
                log()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Writes a file below all roots. Its bytes are no other file's.
fn write(roots: &[PathBuf], uri: &str, bytes: u64) -> anyhow::Result<()> {
    let content = content(uri, bytes as usize);
    for root in roots {
        let path = root.join(uri.trim_start_matches('/'));
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(root))?;
            File::create(&path)?.write_all(&content)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn content(uri: &str, bytes: usize) -> Vec<u8> {
    // FNV-1a of the name, then splitmix64.
    let mut state = uri.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        content.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    content.truncate(bytes);
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_differ_and_have_their_length() {
        let (one, other) = (content("/a", 1001), content("/b", 1001));
        assert_eq!((one.len(), other.len()), (1001, 1001));
        assert_ne!(one, other);
        assert_eq!(content("/a", 1).len(), 1);
    }
}
