//! The installer, with a release on a local HTTPS server, and the manifests of package managers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::{ARCSSH, LIMIT, Run, eventually, free_port, on_a_terminal, run, script};

/// A release on a local HTTPS server, and an empty home directory.
struct Release {
    folder: TempDir,
    server: Child,
    port: u16,
}

/// Serves the folder `release` over TLS until its standard input ends.
const SERVER: &str = "
import functools, http.server, ssl, sys, threading
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory='release')
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('certificate.pem', 'key.pem')
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
";

impl Release {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let archive = format!("arcssh-{}", target());
        let files = at(&archive);
        for name in ["man", "completions"] {
            fs::create_dir_all(files.join(name)).unwrap();
        }
        fs::copy(ARCSSH, files.join("arcssh")).unwrap();
        run(Command::new(ARCSSH).arg("man").arg(files.join("man"))).clean();
        for (shell, name) in [("bash", "arcssh.bash"), ("zsh", "_arcssh"), ("fish", "arcssh.fish")] {
            let text = run(Command::new(ARCSSH).args(["completions", shell])).clean();
            fs::write(files.join("completions").join(name), text).unwrap();
        }
        let downloads = at("release/latest/download");
        fs::create_dir_all(&downloads).unwrap();
        let packed = downloads.join(format!("{archive}.tar.gz"));
        run(Command::new("tar").arg("-C").arg(folder.path()).arg("-czf").arg(packed).arg(archive)).clean();
        let sums = run(Command::new("sh").args(["-c", "sha256sum *"]).current_dir(&downloads)).clean();
        fs::write(downloads.join("SHA256SUMS"), sums).unwrap();
        let subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
        let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let written = ["-keyout", "key.pem", "-out", "certificate.pem"];
        let mut openssl = Command::new("openssl");
        run(openssl.args(new).args(subject).args(written).current_dir(folder.path()));
        let port = free_port();
        let mut server = Command::new("python3");
        server.args(["-c", SERVER, &port.to_string()]).current_dir(folder.path()).stdin(Stdio::piped());
        let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let release = Self { folder, server, port };
        assert!(eventually(LIMIT, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()));
        release
    }

    fn downloads(&self) -> PathBuf {
        self.folder.path().join("release/latest/download")
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn installer(&self) -> Command {
        let mut sh = Command::new("sh");
        sh.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/install.sh"));
        sh.env("ARCSSH_RELEASES", format!("https://localhost:{}", self.port));
        sh.env("CURL_CA_BUNDLE", self.folder.path().join("certificate.pem"));
        sh.env("PREFIX", self.home()).env("NO_PROXY", "*").env_remove("ARCSSH_VERSION");
        sh
    }

    /// Asserts that the installer fails with this message and installs nothing.
    #[track_caller]
    fn fails(&self, installer: &mut Command, message: &str) {
        let Run { code, stderr, .. } = run(installer);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
        assert!(!self.home().join("bin/arcssh").exists());
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The target of this computer, as in the names of the archives.
fn target() -> String {
    let system = if cfg!(target_os = "macos") { "apple-darwin" } else { "unknown-linux-gnu" };
    format!("{}-{system}", std::env::consts::ARCH)
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut files = run(Command::new("find").args([".", "-type", "f"]).current_dir(folder)).clean();
    files = files.replace("./", "");
    let mut files: Vec<String> = files.lines().map(Into::into).collect();
    files.sort();
    files
}

#[test]
fn the_installer_installs_the_program_with_manual_and_completions() {
    let release = Release::new();
    let output = run(&mut release.installer()).clean();
    assert!(output.contains("install: next: arcssh login"), "{output}");
    let files = files_below(&release.home());
    for file in [
        "bin/arcssh",
        "share/bash-completion/completions/arcssh",
        "share/fish/vendor_completions.d/arcssh.fish",
        "share/man/man1/arcssh.1",
        "share/zsh/site-functions/_arcssh",
    ] {
        assert!(files.iter().any(|other| other == file), "{file}: {files:?}");
    }
    let version = run(Command::new(release.home().join("bin/arcssh")).arg("--version")).clean();
    assert!(version.starts_with("arcssh "), "{version}");
    // A second run replaces the files.
    run(&mut release.installer()).clean();
    assert_eq!(files_below(&release.home()), files);
    // The same works as a pipe to sh, on a terminal.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/install.sh");
    let mut terminal = release.installer();
    let values = terminal.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let values: Vec<_> = values.collect();
    terminal = Command::new("script");
    let (status, screen) = on_a_terminal(
        {
            terminal.envs(values);
            terminal
        },
        &format!("cat {path} | sh"),
    );
    assert_eq!(status, Some(0), "{screen}");
}

#[test]
fn the_installer_installs_nothing_that_is_not_the_release() {
    let release = Release::new();
    let sums = release.downloads().join("SHA256SUMS");
    let good = fs::read_to_string(&sums).unwrap();
    let other = format!("{}{}", "0".repeat(64), &good[64..]);
    for (text, message) in [
        (other.as_str(), "is not the file of the release: its SHA-256 hash is"),
        ("", "SHA256SUMS of the release does not name arcssh-"),
        (&good.replace("arcssh-", "x-arcssh-"), "SHA256SUMS of the release does not name arcssh-"),
        (&good.replacen(|c: char| c.is_ascii_hexdigit(), "x", 1), "SHA256SUMS of the release does not name"),
    ] {
        fs::write(&sums, text).unwrap();
        release.fails(&mut release.installer(), message);
    }
    fs::remove_file(&sums).unwrap();
    release.fails(&mut release.installer(), "cannot download https://localhost:");
    let plain = format!("http://localhost:{}", release.port);
    release.fails(release.installer().env("ARCSSH_RELEASES", plain), "must begin with https://");
    release.fails(release.installer().env("ARCSSH_VERSION", "../x"), "not a version: ../x");
    release.fails(release.installer().env("ARCSSH_VERSION", "9.9.9"), "/download/v9.9.9/arcssh-");
    release.fails(release.installer().env_remove("CURL_CA_BUNDLE"), "cannot download");
}

#[test]
fn the_installer_names_what_this_computer_lacks() {
    let release = Release::new();
    let bin = release.folder.path().join("bin");
    script(
        &bin,
        "uname",
        "#!/bin/sh\ncase $1 in -s) echo FreeBSD ;; -m) echo riscv64 ;; *) echo FreeBSD riscv64 ;; esac\n",
    );
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    release.fails(release.installer().env("PATH", &path), "there is no program for FreeBSD riscv64");
    release.fails(release.installer().env("PREFIX", "/proc/arcssh"), "cannot write below /proc/arcssh");
}

/// A download that breaks off anywhere must not run half a script.
#[test]
fn a_part_of_the_installer_does_nothing() {
    let release = Release::new();
    let text = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/install.sh")).unwrap();
    let part = release.folder.path().join("part.sh");
    let last = text.len() - "main \"$@\"\n".len();
    for length in (0..=last).step_by(97).chain([last]) {
        fs::write(&part, &text[..length]).unwrap();
        let mut sh = release.installer();
        let values: Vec<_> =
            sh.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        sh = Command::new("sh");
        run(sh.arg(&part).envs(values));
        assert!(!release.home().exists(), "{length} bytes");
    }
}

#[test]
fn the_manifests_have_the_version_and_all_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let sums = folder.path().join("SHA256SUMS");
    let archives = [
        "arcssh-aarch64-apple-darwin.tar.gz",
        "arcssh-aarch64-pc-windows-msvc.zip",
        "arcssh-aarch64-unknown-linux-gnu.tar.gz",
        "arcssh-x86_64-apple-darwin.tar.gz",
        "arcssh-x86_64-pc-windows-msvc.zip",
        "arcssh-x86_64-unknown-linux-gnu.tar.gz",
    ];
    let lines: Vec<String> =
        archives.iter().enumerate().map(|(number, name)| format!("{number:064x}  {name}\n")).collect();
    let manifests = |lines: &[String]| {
        fs::write(&sums, lines.concat()).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/manifests.sh");
        run(Command::new("sh").arg(script).arg(&sums).arg(folder.path().join("manifests")))
    };
    manifests(&lines).clean();
    let folder = folder.path().join("manifests");
    let mut all = String::new();
    for file in files_below(&folder) {
        let text = fs::read_to_string(folder.join(&file)).unwrap();
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "{file}");
        assert!(!text.contains('@') || file == "aur/PKGBUILD", "{file}");
        all += &text;
    }
    for number in 0..archives.len() {
        let hash = format!("{number:064x}");
        assert!(all.contains(&hash), "{hash}");
    }
    serde_json::from_str::<serde_json::Value>(&fs::read_to_string(folder.join("scoop/arcssh.json")).unwrap())
        .unwrap();
    run(Command::new("bash").arg("-n").arg(folder.join("aur/PKGBUILD"))).clean();
    for (number, name) in archives.iter().enumerate() {
        let mut some = lines.clone();
        some.remove(number);
        let Run { code, stderr, .. } = manifests(&some);
        assert_eq!(code, Some(1));
        assert!(stderr.contains(&format!("has no SHA-256 hash of {}", name)), "{stderr}");
    }
}

/// The release takes its notes from the change log.
#[test]
fn the_readme_and_the_change_log_have_the_version() {
    let file = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let readme = file("README.md");
    for name in [format!("arcssh_{version}_amd64.deb"), format!("arcssh-{version}-1.x86_64.rpm")] {
        assert!(readme.contains(&format!("./{name}`")), "{name}");
    }
    let heading = format!("## {version} - ");
    assert!(file("CHANGELOG.md").lines().any(|line| line.starts_with(&heading)), "{heading}");
}
