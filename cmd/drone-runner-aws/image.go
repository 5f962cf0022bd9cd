package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
)

func (p *program) imageCommand() *cli.Command {
	return &cli.Command{
		Name:  "image",
		Usage: "make, list, check and remove images of local machines",
		Subcommands: []*cli.Command{
			{
				Name:      "build",
				Usage:     "make one of the images that are built here",
				ArgsUsage: "tiny|debian|debian-docker",
				Description: `Makes an image local machines boot from. One that is there already, with the same
agent, stays as it is.

tiny is Debian's cloud kernel, busybox and the agent, all in memory. The two
packages come from apt, or from any mirror or file with their checksum; nothing
is downloaded twice, and no root is needed.

debian is a Debian system on a disk: systemd, cloud-init, openssh-server, git,
curl, ca-certificates and the agent. It is put together by mmdebstrap, mke2fs and
qemu-img in about two minutes and needs root. debian-docker is the same with a
Docker daemon, for steps in containers.

   drone-runner-aws image build tiny
   sudo drone-runner-aws image build debian --data-dir .run --mirror http://mirror.example.com/debian
   drone-runner-aws image build tiny --agent bin/runner-agent --data-dir .run
   drone-runner-aws image build tiny \
     --kernel-url file:///mnt/linux-image-6.1.0-44-cloud-amd64_6.1.164-1_amd64.deb --kernel-sha256 9f86… \
     --busybox-url file:///mnt/busybox-static_1.35.0-4_amd64.deb --busybox-sha256 60303…`,
				Flags: []cli.Flag{
					dataDirFlag(),
					agentFlag(),
					&cli.BoolFlag{Name: "update", Usage: "fetch the packages again and make the image anew", EnvVars: []string{"RUNNER_IMAGE_UPDATE"}},
					&cli.StringFlag{Name: "mirror", Usage: "`URL` debian comes from (default: Debian itself, with its updates)", EnvVars: []string{"RUNNER_DEBIAN_MIRROR"}},
					&cli.StringFlag{Name: "suite", Usage: "`NAME` of Debian's release", Value: image.DefaultSuite, EnvVars: []string{"RUNNER_DEBIAN_SUITE"}},
					&cli.StringFlag{Name: "kernel-url", Usage: "`URL` or file of the kernel's package, instead of apt", EnvVars: []string{"RUNNER_KERNEL_URL"}},
					&cli.StringFlag{Name: "kernel-sha256", Usage: "its `SUM`", EnvVars: []string{"RUNNER_KERNEL_SHA256"}},
					&cli.StringFlag{Name: "busybox-url", Usage: "`URL` or file of the package busybox-static, instead of apt", EnvVars: []string{"RUNNER_BUSYBOX_URL"}},
					&cli.StringFlag{Name: "busybox-sha256", Usage: "its `SUM`", EnvVars: []string{"RUNNER_BUSYBOX_SHA256"}},
				},
				Action: p.imageBuild,
			},
			{
				Name:      "import",
				Usage:     "make an image of a disk, such as a distribution's cloud image",
				ArgsUsage: "NAME FILE|URL",
				Description: `The disk is a qcow2 file, or a raw one with a boot sector, for this host's
architecture. It boots by itself, and has systemd and cloud-init: they bring the
agent from a second disk. A file that needs another one (a backing file) is
refused. A download that broke off goes on when the command is given again, and
an address needs the file's checksum.

   drone-runner-aws image import bookworm ./debian-12-genericcloud-amd64.qcow2
   drone-runner-aws image import bookworm https://mirror.example.com/debian-12-genericcloud-amd64.qcow2 \
     --sha256 8f9ea5…`,
				Flags: []cli.Flag{
					dataDirFlag(), jsonFlag(), agentFlag(),
					&cli.StringFlag{Name: "sha256", Usage: "the file's `SUM`; needed with an address", EnvVars: []string{"RUNNER_IMAGE_SHA256"}},
					&cli.IntFlag{Name: "memory", Usage: "least memory of its machines in `MIB`", Value: image.ImportedMinMemoryMB, EnvVars: []string{"RUNNER_IMAGE_MEMORY"}},
				},
				Action: p.imageImport,
			},
			{
				Name:  "ls",
				Usage: "list the images",
				Flags: []cli.Flag{dataDirFlag(), jsonFlag()},
				Action: func(c *cli.Context) error {
					dir, err := imagesDir(c)
					if err != nil {
						return err
					}
					images, err := image.List(dir)
					if c.Bool("json") {
						return errors.Join(err, p.json(orEmpty(images)))
					}
					if len(images) == 0 && err == nil {
						fmt.Fprintf(p.stderr, "No images in %s. Make one: drone-runner-aws image build tiny\n", dir)
					}
					return errors.Join(err, printImages(p.stdout, images))
				},
			},
			{
				Name:      "verify",
				Usage:     "compare an image's files with its checksums",
				ArgsUsage: "NAME",
				Flags:     []cli.Flag{dataDirFlag()},
				Action: func(c *cli.Context) error {
					dir, name, err := imageArg(c)
					if err != nil {
						return err
					}
					if err := image.Verify(dir, name); err != nil {
						return err
					}
					fmt.Fprintln(p.stdout, "image", name, "is as it was made")
					return nil
				},
			},
			{
				Name:      "rm",
				Usage:     "remove an image that no machine uses",
				ArgsUsage: "NAME",
				Flags:     []cli.Flag{dataDirFlag()},
				Action: func(c *cli.Context) error {
					dir, name, err := imageArg(c)
					if err != nil {
						return err
					}
					if _, err := image.Inspect(dir, name); errors.Is(err, image.ErrNotExist) {
						return err
					}
					users, err := qemu.ImageUsers(filepath.Dir(dir), name)
					if err != nil {
						return err
					}
					if len(users) > 0 {
						return fmt.Errorf("image %s is used by %s; take it out of the pool file and let them end, or drain the pool", name, someOf(users))
					}
					return image.Remove(dir, name)
				},
			},
		},
	}
}

// someOf names the first of some machines.
func someOf(machines []string) string {
	if len(machines) == 1 {
		return "1 machine: " + machines[0]
	}
	return fmt.Sprintf("%d machines, the first %s", len(machines), machines[0])
}

func agentFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "agent", Usage: "the agent's `FILE`, a static Linux program (default: beside this program, else on the PATH)",
		EnvVars: []string{"RUNNER_AGENT_BINARY"}, TakesFile: true,
	}
}

func imagesDir(c *cli.Context) (string, error) {
	dir, err := dataDir(c.String("data-dir"), "")
	if err != nil {
		return "", err
	}
	return qemu.ImagesDir(dir), nil
}

func imageArg(c *cli.Context) (dir, name string, err error) {
	if c.NArg() != 1 {
		return "", "", usagef(c, "give the name of one image")
	}
	dir, err = imagesDir(c)
	return dir, c.Args().First(), err
}

func (p *program) imageBuild(c *cli.Context) error {
	if c.NArg() > 1 {
		return usagef(c, "give the name of one image")
	}
	name := image.Tiny
	if c.NArg() == 1 {
		name = c.Args().First()
	}
	for _, f := range []struct {
		image          string
		fits           bool
		flag, variable string
	}{
		{image.Tiny, name == image.Tiny, "kernel-url", "RUNNER_KERNEL_URL"},
		{image.Tiny, name == image.Tiny, "busybox-url", "RUNNER_BUSYBOX_URL"},
		{image.Debian, image.IsDebian(name), "mirror", "RUNNER_DEBIAN_MIRROR"},
		{image.Debian, image.IsDebian(name), "suite", "RUNNER_DEBIAN_SUITE"},
	} {
		// A variable is there for whichever image needs it.
		if !f.fits && c.IsSet(f.flag) && os.Getenv(f.variable) == "" {
			return usagef(c, "--%s is for the image %s, and this is %s", f.flag, f.image, name)
		}
	}
	dir, err := imagesDir(c)
	if err != nil {
		return err
	}
	agent, err := findAgent(c.String("agent"))
	if err != nil {
		return err
	}
	sameSource := func(have *image.Image) bool {
		if have.Disk != nil {
			return have.Disk.Suite == c.String("suite") && have.Disk.Mirror == c.String("mirror")
		}
		return !c.IsSet("kernel-url") && !c.IsSet("busybox-url")
	}
	if have, err := image.Inspect(dir, name); err == nil && !c.Bool("update") && sameSource(have) {
		if sum, err := sha256File(agent); err == nil && sum == have.Agent.SHA256 && image.Verify(dir, name) == nil {
			fmt.Fprintf(p.stdout, "image %s is there and has this agent: %s\n", name, have.Dir)
			return nil
		}
	}
	o := image.Options{
		Name: name, Dir: dir, AgentPath: agent, Update: c.Bool("update"),
		Kernel:  image.Source{URL: c.String("kernel-url"), SHA256: c.String("kernel-sha256")},
		Busybox: image.Source{URL: c.String("busybox-url"), SHA256: c.String("busybox-sha256")},
		Suite:   c.String("suite"), Mirror: c.String("mirror"),
		Progress: p.progress(),
	}
	start := time.Now()
	img, err := image.Build(c.Context, o)
	if err != nil {
		return cancelled(c.Context, err)
	}
	fmt.Fprintf(p.stdout, "image %s is ready after %s: kernel %s, %d MiB of memory at least, in %s\n",
		img.Name, time.Since(start).Round(100*time.Millisecond), img.KernelRelease, img.MinMemoryMB, img.Dir)
	return nil
}

func (p *program) imageImport(c *cli.Context) error {
	if c.NArg() != 2 {
		return usagef(c, "give a name for the image and the disk's file or address")
	}
	dir, err := imagesDir(c)
	if err != nil {
		return err
	}
	agent, err := findAgent(c.String("agent"))
	if err != nil {
		return err
	}
	start := time.Now()
	img, err := image.Import(c.Context, image.ImportOptions{
		Name: c.Args().Get(0), Dir: dir, AgentPath: agent, MinMemoryMB: c.Int("memory"),
		From:     image.Source{URL: c.Args().Get(1), SHA256: c.String("sha256")},
		Progress: p.progress(),
	})
	if err != nil {
		return cancelled(c.Context, err)
	}
	if c.Bool("json") {
		return p.json(img)
	}
	fmt.Fprintf(p.stdout, "image %s is ready after %s: a disk of %.1f GB, %d MiB of memory at least, in %s\n",
		img.Name, time.Since(start).Round(100*time.Millisecond), float64(img.Disk.Size)/1e9, img.MinMemoryMB, img.Dir)
	return nil
}

// cancelled keeps an interrupt from looking like a failure of what it
// interrupted.
func cancelled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// findAgent finds the program that goes into the image.
func findAgent(given string) (string, error) {
	if given != "" {
		if _, err := os.Stat(given); err != nil {
			return "", fmt.Errorf("agent: %w", err)
		}
		return given, nil
	}
	names := []string{"runner-agent-linux-" + runtime.GOARCH, "runner-agent"}
	if self, err := os.Executable(); err == nil {
		for _, n := range names {
			beside := filepath.Join(filepath.Dir(self), n)
			if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
				return beside, nil
			}
		}
	}
	for _, n := range names {
		if found, err := exec.LookPath(n); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("runner-agent is neither beside this program nor on the PATH; build it (CGO_ENABLED=0 GOOS=linux go build -o bin/runner-agent ./cmd/runner-agent) or name it with --agent")
}

func sha256File(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// progress prints each step on a line of its own; on a terminal the bytes of a
// download are counted on that line.
func (p *program) progress() func(step string, done, total int64) {
	var last string
	var shown int64 = -1
	tty := isTerminal(p.stderr)
	return func(step string, done, total int64) {
		percent := int64(-1)
		if total > 0 {
			percent = done * 100 / total
		}
		switch {
		case step != last:
			if tty && last != "" {
				fmt.Fprintln(p.stderr)
			}
			fmt.Fprint(p.stderr, step)
			if !tty {
				fmt.Fprintln(p.stderr)
			}
		case !tty || percent == shown:
			return
		}
		if tty && percent >= 0 {
			fmt.Fprintf(p.stderr, "\r%s  %3d %% of %.1f MB", step, percent, float64(total)/1e6)
		}
		last, shown = step, percent
	}
}

func printImages(w io.Writer, images []*image.Image) error {
	if len(images) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tARCH\tKERNEL\tAGENT\tMEMORY\tDISK\tFOLDER")
	for _, i := range images {
		disk := "none"
		if i.Disk != nil {
			disk = fmt.Sprintf("%.1f GB", float64(i.Disk.Size)/1e9)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d MiB\t%s\t%s\n",
			i.Name, i.Arch, cmp.Or(i.KernelRelease, "its own"), short(i.Agent.Version), i.MinMemoryMB, disk, i.Dir)
	}
	return t.Flush()
}
