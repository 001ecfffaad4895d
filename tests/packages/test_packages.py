"""The packages as files: what is in them and how, their scripts, man pages and completions.

The folder with the packages is named by ROLLCALL_PACKAGES.
"""

import fnmatch
import functools
import glob
import gzip
import hashlib
import io
import os
import pathlib
import posixpath
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import unittest

PACKAGES = pathlib.Path(os.environ["ROLLCALL_PACKAGES"])
REPOSITORY = pathlib.Path(__file__).parents[2]
PROGRAMS = ["rollcall-agent", "rollcall-aggregator"]
# The one file that must be edited.
EDITED = {"rollcall-agent": "/etc/default/rollcall-agent", "rollcall-aggregator": "/etc/rollcall/cluster.yaml"}
# What one kind of package has of its own, and where the distributions want a file elsewhere.
DEB_ALONE = {"/usr/share/doc/{}/copyright", "/usr/share/doc/{}/changelog.Debian.gz"}
RPM_ALONE = {"/usr/share/licenses/{}/LICENSE"}
MOVED = {"/usr/share/zsh/vendor-completions/": "/usr/share/zsh/site-functions/"}
# What lintian warns of, and why it stays.
LINTIAN = {
    "initial-upload-closes-no-bugs": "the packages are not part of Debian",
    "copyright-without-copyright-notice": "nobody signs for it but the maintainers",
    "non-standard-file-perm": "the cluster file may hold a join command",
}


def run(*command, **options):
    """What a command prints; its words are in the error where it fails."""
    done = subprocess.run(command, capture_output=True, check=False, **options)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise AssertionError(f"{' '.join(map(str, command))}: exit code {done.returncode}: {said}")
    return done.stdout


def one(pattern):
    """The one package of this name."""
    found = glob.glob(str(PACKAGES / pattern))
    assert len(found) == 1, f"{pattern} in {PACKAGES}: {found}"
    return found[0]


class Deb:
    """A Debian package, unpacked in memory."""

    def __init__(self, program):
        self.path = one(f"{program}_*.deb")
        self.files = {}
        for member, content in self._tar("--fsys-tarfile"):
            self.files[member.name.removeprefix(".")] = (
                member.mode, member.uname or str(member.uid), member.gname or str(member.gid), content)
        self.control = {member.name.removeprefix("./"): content.decode()
                        for member, content in self._tar("--ctrl-tarfile")}

    def _tar(self, kind):
        with tarfile.open(fileobj=io.BytesIO(run("dpkg-deb", kind, self.path))) as tar:
            for member in tar:
                if member.isfile():
                    yield member, tar.extractfile(member).read()

    def field(self, name):
        """A field of the control file."""
        return re.search(rf"^{name}: (.*)$", self.control["control"], re.M)[1]


class Rpm:
    """An RPM, by what rpm tells of it."""

    def __init__(self, program):
        self.path = one(f"{program}-[0-9]*.rpm")
        query = "[%{FILENAMES}\t%{FILEMODES:octal}\t%{FILEUSERNAME}\t%{FILEGROUPNAME}\t%{FILEFLAGS:fflags}\t%{FILEDIGESTS}\n]"
        self.files = {}
        for line in self.tell(query).splitlines():
            name, mode, user, group, flags, digest = line.split("\t")
            self.files[name] = (int(mode, 8) & 0o7777, user, group, flags, digest)

    def tell(self, query):
        """What it has for a query format."""
        return run("rpm", "-qp", "--qf", query, self.path).decode()


def for_each_program(test):
    """Runs a test once for each program, with its name and its two packages."""

    @functools.wraps(test)
    def each(self):
        for program in PROGRAMS:
            with self.subTest(program=program):
                test(self, program, self.debs[program], self.rpms[program])

    return each


class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.debs = {program: Deb(program) for program in PROGRAMS}
        cls.rpms = {program: Rpm(program) for program in PROGRAMS}
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        for program, deb in cls.debs.items():
            run("dpkg-deb", "--extract", deb.path, cls.folder / program)

    @for_each_program
    def test_both_kinds_hold_the_same(self, program, deb, rpm):
        expected = {}
        for name, (mode, _, _, content) in deb.files.items():
            if name in {alone.format(program) for alone in DEB_ALONE}:
                continue
            for there, here in MOVED.items():
                name = name.replace(there, here)
            expected[name] = (f"{mode:o}", hashlib.sha256(content).hexdigest())
        found = {name: (f"{mode:o}", digest) for name, (mode, _, _, _, digest) in rpm.files.items()
                 if name not in {alone.format(program) for alone in RPM_ALONE}}
        self.assertEqual(expected, found)
        for alone in RPM_ALONE:
            self.assertIn(alone.format(program), rpm.files)
        for alone in DEB_ALONE:
            self.assertIn(alone.format(program), deb.files)

    @for_each_program
    def test_all_is_roots_and_nobody_else_may_write(self, program, deb, rpm):
        for kind in (deb, rpm):
            for name, (mode, user, group, *_) in kind.files.items():
                self.assertIn((user, group), {("root", "root"), ("0", "0")}, name)
                expected = {"/usr/bin/": 0o755, "/etc/rollcall/cluster.yaml": 0o640}
                wanted = next((m for folder, m in expected.items() if name.startswith(folder)), 0o644)
                self.assertEqual(f"{wanted:o}", f"{mode:o}", name)

    @for_each_program
    def test_settings_are_kept(self, program, deb, rpm):
        settings = {
            "rollcall-agent": {"/etc/default/rollcall-agent", "/etc/rollcall/README"},
            "rollcall-aggregator": {"/etc/default/rollcall-aggregator", "/etc/rollcall/cluster.yaml"},
        }
        self.assertEqual(settings[program], set(deb.control["conffiles"].split()))
        kept = {name for name, (_, _, _, flags, _) in rpm.files.items() if set("cn") <= set(flags)}
        self.assertEqual(settings[program], kept)
        below_etc = {name for name in deb.files if name.startswith("/etc/")}
        self.assertEqual(settings[program], below_etc, "what is in /etc and no setting")
        asking = {name for name in settings[program]
                  if re.search(r"(?m)^[^#\n]*CHANGE-ME", deb.files[name][3].decode())}
        self.assertEqual({EDITED[program]}, asking, "the one edit")

    @for_each_program
    def test_everything_is_where_it_belongs(self, program, deb, rpm):
        for name in [
            f"/usr/bin/{program}",
            f"/usr/lib/systemd/system/{program}.service",
            f"/usr/lib/sysusers.d/{program}.conf",
            f"/usr/lib/tmpfiles.d/{program}.conf",
            f"/usr/share/bash-completion/completions/{program}",
            f"/usr/share/zsh/vendor-completions/_{program}",
            f"/usr/share/fish/vendor_completions.d/{program}.fish",
            f"/usr/share/doc/{program}/bare-metal.md",
        ]:
            self.assertIn(name, deb.files)
        with self.subTest(program=program, of="a page for each command"):
            self.assertEqual(
                {f"/usr/share/man/man1/{page}.1.gz" for page in self.commands(program)},
                {name for name in deb.files if name.startswith("/usr/share/man/")})

    def commands(self, program):
        """The pages of a program and its subcommands, by its own help."""
        pages, todo = [], [[]]
        while todo:
            words = todo.pop()
            pages.append("-".join([program, *words]))
            said = run(self.folder / program / "usr/bin" / program, *words, "--help").decode()
            commands = re.search(r"^Commands:\n((?:  .*\n|\n(?=  ))+)", said, re.M)
            names = re.findall(r"^  (\S+)", commands[1], re.M) if commands else []
            todo += [[*words, name] for name in names if name != "help"]
        self.assertGreater(len(pages), 4, f"{program} --help was not understood")
        return pages

    @for_each_program
    def test_libc_is_as_documented(self, program, deb, rpm):
        documented = re.search(r"glibc (2\.\d+)", (REPOSITORY / "docs/bare-metal.md").read_text())[1]
        needed = re.search(r"libc6 \(>= (2\.\d+)\)", deb.field("Depends"))[1]
        self.assertEqual(documented, needed)
        versions = re.findall(r"GLIBC_2\.(\d+)", run("rpm", "-qp", "--requires", rpm.path).decode())
        if versions:
            self.assertLessEqual(max(map(int, versions)), int(needed.split(".")[1]))

    @for_each_program
    def test_versions_are_one(self, program, deb, rpm):
        self.assertEqual(deb.field("Version"), rpm.tell("%{VERSION}-%{RELEASE}"))

    @for_each_program
    def test_scripts_are_sound(self, program, deb, rpm):
        tags = {"post": "POSTIN", "preun": "PREUN", "postun": "POSTUN"}
        scripts = {name: text for name, text in deb.control.items()
                   if name in ("preinst", "postinst", "prerm", "postrm")}
        self.assertEqual({"postinst", "prerm", "postrm"}, scripts.keys())
        for name, text in scripts.items():
            self.assertTrue(text.startswith("#!/bin/sh\n"), name)
            self.assertIn("\nset -e\n", text, name)
            self.assertNotIn("#DEBHELPER#", text, name)
        for name, tag in tags.items():
            scripts[name] = "#!/bin/sh\n" + rpm.tell(f"%{{{tag}}}") + "\n"
            self.assertIn(f"{program}.service", scripts[name], name)
        for name, text in scripts.items():
            with self.subTest(program=program, script=name):
                script = self.folder / f"{program}.{name}"
                script.write_text(text)
                run("sh", "-n", script)
                # SC2154: what debhelper's own lines set.
                run("shellcheck", "--shell=sh", "--exclude=SC2154", script)

    def test_tokens_are_made_alike(self):
        texts = [self.debs["rollcall-aggregator"].control["postinst"],
                 self.rpms["rollcall-aggregator"].tell("%{POSTIN}")]
        bodies = [re.search(r"(?ms)^new_token\(\) \{.*?^\}", text)[0] for text in texts]
        self.assertEqual(*bodies)

        def make(folder, **stand_ins):
            """Makes a token in a folder, with programs that do as they are told."""
            programs = self.folder / f"{folder}-programs"
            # Not everybody may give files away; that it is done, and to whom, is written down.
            stand_ins = {"chown": f'echo "$1" >>{programs}/told', **stand_ins}
            for name, does in stand_ins.items():
                programs.mkdir(exist_ok=True)
                (programs / name).write_text(f"#!/bin/sh\n{does}\n")
                (programs / name).chmod(0o755)
            place = self.folder / folder
            place.mkdir(exist_ok=True)
            done = subprocess.run(
                ["sh", "-c", f"{bodies[0]}\nset -e\numask 022\nnew_token {place}/token somebody"],
                env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}, capture_output=True, check=False)
            return done.returncode, place / "token", (programs / "told")

        code, token, told = make("made")
        self.assertEqual((0, "root:somebody\n"), (code, told.read_text()))
        text = token.read_text()
        self.assertRegex(text, r"\A[0-9a-f]{64}\n\Z")
        self.assertEqual("640", f"{token.stat().st_mode & 0o7777:o}")
        self.assertEqual((0, token, told), make("made"), "one that is there")
        self.assertEqual((text, "root:somebody\n"), (token.read_text(), told.read_text()), "is left alone")
        for name, does in {"od": "exit 1", "tr": "cut -c 1-9", "chown": "exit 1", "chmod": "exit 1"}.items():
            with self.subTest(fails=name):
                code, token, _ = make(f"failing-{name}", **{name: does})
                self.assertNotEqual(0, code)
                self.assertEqual([], list(token.parent.iterdir()), "what is left")

    @for_each_program
    def test_pages_are_sound(self, program, deb, rpm):
        for name, (_, _, _, content) in deb.files.items():
            if not name.startswith("/usr/share/man/"):
                continue
            with self.subTest(page=name):
                text = gzip.decompress(content)
                for section in ["NAME", "SYNOPSIS", "DESCRIPTION", '"EXIT STATUS"', '"SEE ALSO"']:
                    self.assertIn(f".SH {section}\n".encode(), text)
                page = self.folder / "page.1"
                page.write_bytes(text)
                run("mandoc", "-T", "lint", "-W", "warning", page)
                done = subprocess.run(["groff", "-ww", "-man", "-Tutf8", page], capture_output=True, check=True)
                self.assertEqual(b"", done.stderr)

    @for_each_program
    def test_completions_are_sound(self, program, deb, rpm):
        folder = self.folder / program / "usr/share"
        bash = folder / "bash-completion/completions" / program
        zsh = folder / f"zsh/vendor-completions/_{program}"
        fish = folder / f"fish/vendor_completions.d/{program}.fish"
        said = run("bash", "-c", f'source "{bash}" && complete -p {program}')
        self.assertIn(program.encode(), said)
        run("zsh", "-n", zsh)
        run("fish", "--no-execute", fish)
        visible = "run" if program == "rollcall-agent" else "serve"
        for file in (bash, zsh, fish):
            words = set(re.findall(r"(?<![\w-])[a-z]+(?![\w-])", file.read_text()))
            self.assertIn(visible, words, file)
            self.assertNotIn("nvml", words, f"{file} offers a hidden command")

    def test_lintian_has_nothing_new(self):
        # What it finds is judged here, so that its exit code is of its own troubles alone.
        done = subprocess.run(
            ["lintian", "--allow-root", "--fail-on=none", *[deb.path for deb in self.debs.values()]],
            capture_output=True, check=False)
        self.assertEqual((0, ""), (done.returncode, done.stderr.decode()))
        lines = done.stdout.decode().splitlines()
        self.assertTrue(lines, "it looked at nothing: not even what is known was found")
        for line in lines:
            with self.subTest(line=line):
                found = re.match(r"([EW]): \S+: (\S+)", line)
                self.assertTrue(found, "what lintian says is not understood")
                self.assertEqual("W", found[1])
                self.assertIn(found[2], LINTIAN)

    @for_each_program
    def test_pages_link_to_what_is_there(self, program, deb, rpm):
        pages = {name: content.decode() for name, (*_, content) in deb.files.items() if name.endswith(".md")}
        self.assertGreater(len(pages), 9)
        checked = 0
        for name, text in pages.items():
            # What is quoted may look like a link.
            quoted_away = re.sub(r"(?ms)^```.*?^```|`[^`\n]*`", "", text)
            for link in re.findall(r"\]\(([^)\s]+)\)", quoted_away):
                if re.match(r"[a-z]+:", link):
                    continue
                checked += 1
                with self.subTest(page=name, link=link):
                    path, _, heading = link.partition("#")
                    there = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
                    # A folder is none where files are looked at alone.
                    self.assertTrue(there in deb.files or any(f.startswith(f"{there}/") for f in deb.files))
                    if heading:
                        headings = re.findall(r"(?m)^#+ (.*)$", pages[there])
                        self.assertIn(heading, {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings})
        self.assertGreater(checked, 9)

    @for_each_program
    def test_licences_come_along(self, program, deb, rpm):
        text = gzip.decompress(deb.files[f"/usr/share/doc/{program}/THIRD-PARTY.gz"][3]).decode()
        table, *texts = re.split(r"(?m)^={80}\n\[\d+\]\n", text)
        listed = {line.split(":")[0]: line for line in table.splitlines()[2:] if line}
        # As cargo itself tells what is linked in.
        host = re.search(r"(?m)^host: (.*)$", run("rustc", "-vV").decode())[1]
        tree = run(os.environ.get("CARGO", "cargo"), "tree", "--locked", "--package", program, "--edges=normal",
                   "--prefix=none", f"--target={host}", "--format={p}", cwd=REPOSITORY).decode()
        linked = {f"{name} {version}" for name, version in re.findall(r"(?m)^(\S+) v(\S+)(?!.* \(/)", tree)}
        self.assertLess(100, len(linked))
        self.assertEqual(set(), linked - listed.keys(), "what is linked in, and not listed")
        for name, line in listed.items():
            numbers = [int(number) for number in re.search(r"\[([\d, ]+)\]$", line)[1].split(", ")]
            self.assertLessEqual(max(numbers), len(texts), name)
            self.assertTrue(all(len(texts[number - 1]) > 60 for number in numbers), name)

    def test_secrets_of_examples_are_guarded(self):
        guarded, named = [], {}
        for program, deb in self.debs.items():
            for line in deb.files[f"/usr/lib/tmpfiles.d/{program}.conf"][3].decode().splitlines():
                if line.startswith("z "):
                    guarded.append(line.split()[1])
            for name, (*_, content) in deb.files.items():
                # In a pod there is no tmpfiles; what is a proxy's is not here.
                if name.startswith(("/etc/", "/usr/share/doc/")) and not name.endswith((".gz", "kubernetes.md")):
                    for found in re.findall(r"/etc/rollcall/[\w.-]*\w", content.decode()):
                        named[found] = name
        self.assertGreater(len(named), 9)
        for path, where in named.items():
            with self.subTest(path=path, named_in=where):
                self.assertTrue(any(fnmatch.fnmatch(path, pattern) for pattern in guarded))

    @unittest.skipUnless(os.geteuid() == 0, "only root may enter a root")
    def test_scripts_of_the_rpms_do_their_work(self):
        root = self.folder / "small-root"
        programs = ["sh", "od", "tr", "mktemp", "wc", "chown", "chmod", "mv", "rm",
                    "systemctl", "systemd-sysusers", "systemd-tmpfiles"]
        for program in programs:
            found = os.path.realpath(shutil.which(program))
            libraries = re.findall(r"(/\S+) \(0x", run("ldd", found).decode())
            for source, target in [(found, f"/usr/bin/{program}"), *[(library, library) for library in libraries]]:
                (root / target[1:]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, root / target[1:])
        (root / "bin").mkdir(exist_ok=True)
        shutil.copy(root / "usr/bin/sh", root / "bin/sh")
        for folder in ("etc", "dev", "tmp", "proc"):
            (root / folder).mkdir(exist_ok=True)
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        os.mknod(root / "dev/urandom", 0o666 | stat.S_IFCHR, os.makedev(1, 9))
        os.mknod(root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        # tmpfiles needs /proc, which goes with the mount namespace.
        entered = 'mount --rbind /proc "$0/proc" && exec rpm --root "$0" --nodeps --nosignature "$@"'
        command = ["unshare", "--mount", "sh", "-c", entered, root]
        run("rpm", "--root", root, "--initdb")
        tokens = [root / "etc/rollcall/join-token", root / "etc/rollcall/operator-token"]

        sysusers = root / "usr/bin/systemd-sysusers"
        sysusers.rename(f"{sysusers}.away")
        failed = subprocess.run([*command, "-i", self.rpms["rollcall-aggregator"].path], capture_output=True, check=False)
        self.assertIn(b"systemd-sysusers", failed.stderr)
        self.assertEqual([], [token for token in tokens if token.exists()], "tokens without a group to read them")
        run(*command, "-e", "rollcall-aggregator")
        pathlib.Path(f"{sysusers}.away").rename(sysusers)

        for rpm in self.rpms.values():
            done = subprocess.run([*command, "-i", rpm.path], capture_output=True, check=False)
            # A script's failure is not rpm's.
            self.assertEqual(0, done.returncode, done.stderr)
            self.assertNotIn(b"scriptlet failed", done.stderr)
        groups = {int(line.split(":")[2]): line.split(":")[0] for line in (root / "etc/group").read_text().splitlines()}
        owned = {"join-token": "rollcall", "operator-token": "rollcall-aggregator", "cluster.yaml": "rollcall-aggregator"}
        for path, group in owned.items():
            found = (root / "etc/rollcall" / path).stat()
            self.assertEqual((0, group, "640"), (found.st_uid, groups.get(found.st_gid), f"{found.st_mode & 0o7777:o}"), path)
        made = [token.read_text() for token in tokens]
        self.assertNotEqual(*made)
        wanted = root / "etc/systemd/system/multi-user.target.wants"
        units = {f"{program}.service" for program in PROGRAMS}
        self.assertEqual(units, set(os.listdir(wanted)), "by systemd's own preset, which is to enable")
        run(*command, "-U", "--replacepkgs", *[rpm.path for rpm in self.rpms.values()])
        self.assertEqual(made, [token.read_text() for token in tokens], "after an upgrade")
        (root / "etc/default/rollcall-agent").write_text("ROLLCALL_AGGREGATOR=http://127.0.0.1:7655\n")
        run(*command, "-e", *PROGRAMS)
        self.assertEqual([], os.listdir(wanted) if wanted.exists() else [])
        self.assertEqual(made, [token.read_text() for token in tokens], "after their removal")
        self.assertTrue((root / "etc/default/rollcall-agent.rpmsave").exists(), "settings that were edited")

    def test_the_rpms_go_into_a_root(self):
        root = self.folder / "root"
        run("rpm", "--root", root, "--initdb")
        run("rpm", "--root", root, "--nodeps", "--noscripts", "--nosignature", "-i", *[rpm.path for rpm in self.rpms.values()])
        for program in PROGRAMS:
            run(root / "usr/bin" / program, "--version")


if __name__ == "__main__":
    unittest.main()
