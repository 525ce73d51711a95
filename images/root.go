package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const rootFile = "root.squashfs"

// rootInstall maps the recipe's files to their places in the root image.
func rootInstall() map[string]string {
	return map[string]string{
		"root/containerd.toml": "etc/containerd/config.toml",
		"root/init":            "usr/lib/hookbed/init",
		"root/services":        "usr/lib/hookbed/services",
		"root/inittab":         "etc/inittab",
		"root/fstab":           "etc/fstab",
		"root/fstab.endpoint":  "etc/fstab.endpoint",
		"root/power":           "etc/acpi/PWRF/00000080",
		"root/daemon.json":     "etc/docker/daemon.json",
		"root/sshd_config":     "etc/ssh/sshd_config",
	}
}

func rootRecipe() recipe {
	return recipe{name: lockRoot, files: recipeFiles("root"), build: buildRoot}
}

func buildRoot(ctx context.Context, b *build) error {
	if os.Geteuid() != 0 {
		return errors.New("the root image can only be built by root")
	}
	repo := filepath.Join(b.work, "repo")
	if err := b.localRepo(ctx, repo); err != nil {
		return err
	}
	root := filepath.Join(b.work, "root")
	if err := b.bootstrap(ctx, repo, root); err != nil {
		return err
	}
	if err := trimRoot(root); err != nil {
		return err
	}
	if err := installRecipe(ctx, root); err != nil {
		return err
	}
	if err := writeSealedTools(filepath.Join(b.out, sealedToolsFile), root); err != nil {
		return err
	}
	return b.squashfs(ctx, root, rootFile)
}

// localRepo makes an apt repository of the locked packages and nothing else.
func (b *build) localRepo(ctx context.Context, repo string) error {
	if err := makeDir(repo); err != nil {
		return err
	}
	for _, p := range b.lock.Packages {
		if err := os.Link(b.debs.path(p), filepath.Join(repo, p.Name+".deb")); err != nil {
			return err
		}
	}
	index, err := command{argv: []string{"apt-ftparchive", "packages", "."}, dir: repo}.run(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(repo, "Packages"), []byte(index), 0o644); err != nil {
		return err
	}
	// mmdebstrap looks for the essential packages in the suite of this name.
	codename := "APT::FTPArchive::Release::Codename=" + b.lock.Suite
	release, err := command{argv: []string{"apt-ftparchive", "-o", codename, "release", "."}, dir: repo}.run(ctx)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(repo, "Release"), []byte(release), 0o644)
}

// bootstrap installs every locked package, with no network and no other versions to choose from.
func (b *build) bootstrap(ctx context.Context, repo, root string) error {
	var names []string
	for _, p := range b.lock.Packages {
		names = append(names, p.Name)
	}
	argv := []string{"mmdebstrap", "--mode=root", "--variant=essential", "--format=directory", "--include=" + strings.Join(names, ","),
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/info/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/lintian/*", "--dpkgopt=path-exclude=/usr/share/bash-completion/*",
		// The study's iptables is the legacy one; nft stays available by its own name.
		"--customize-hook=chroot \"$1\" update-alternatives --quiet --set iptables /usr/sbin/iptables-legacy",
		"--customize-hook=chroot \"$1\" update-alternatives --quiet --set ip6tables /usr/sbin/ip6tables-legacy",
		b.lock.Suite, root, "deb [trusted=yes] copy:" + repo + " ./"}
	_, err := command{argv: argv, env: []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.epoch().Unix()), "DEBIAN_FRONTEND=noninteractive"}, private: true}.run(ctx)
	return err
}

// trimRoot removes what differs from build to build, what must differ from
// machine to machine, and what a lab machine has no use for.
func trimRoot(root string) error {
	for _, pattern := range []string{
		"etc/ssh/ssh_host_*", "etc/hostname", "etc/resolv.conf", "etc/apt/sources.list*", "etc/machine-id", "var/lib/dbus/machine-id",
		"var/cache/*", "var/log/*", "var/lib/apt/lists/*", "var/lib/dpkg/*-old", "var/backups/*", "run/*", "tmp/*", "dev/*",
		"etc/*-", "usr/share/zoneinfo", "usr/share/perl5/Debconf*", "usr/lib/systemd", "etc/systemd",
		"usr/bin/ctr", "usr/bin/containerd-shim", "usr/bin/containerd-shim-runc-v1", "usr/sbin/docker-proxy", "usr/lib/x86_64-linux-gnu/gconv",
	} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := os.RemoveAll(f); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(root, "etc/machine-id"), nil, 0o444)
}

// installRecipe puts the files of the recipe in place, the directories that init mounts
// on, and the names under which busybox is called.
func installRecipe(ctx context.Context, root string) error {
	for _, d := range []string{"dev/pts", "dev/shm", "proc", "sys", "run", "var/lib/docker", "var/lib/containerd", "usr/lib/modules", "var/log"} {
		if err := makeDir(filepath.Join(root, d)); err != nil {
			return err
		}
	}
	for from, to := range rootInstall() {
		to = filepath.Join(root, to)
		if err := makeDir(filepath.Dir(to)); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if data := recipeFile(from); strings.HasPrefix(string(data), "#!") {
			mode = 0o755
		}
		if err := errors.Join(os.WriteFile(to, recipeFile(from), mode), os.Chmod(to, mode)); err != nil {
			return err
		}
	}
	return linkApplets(ctx, root)
}
