package hostrunner

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// platform is an operating system and an architecture, in the words of the
// toolchain; empty where it is not known.
type platform struct{ os, arch string }

func (p platform) String() string {
	switch {
	case p.os == "":
		return p.arch
	case p.arch == "":
		return p.os
	}
	return p.os + "/" + p.arch
}

var thisPlatform = platform{os: runtime.GOOS, arch: runtime.GOARCH}

// Variables by which a pipeline says where its stage is to run.
const (
	stageOS   = "DRONE_STAGE_OS"
	stageArch = "DRONE_STAGE_ARCH"
)

// wantedPlatform is what a setup says about where it wants to run, in words or
// by a path only Windows has.
func wantedPlatform(req *setupRequest) platform {
	envs := req.Setup.Envs
	p := platform{os: systemName(req.Platform.OS), arch: archName(req.Platform.Arch)}
	if p.os == "" {
		p.os = systemName(envs[stageOS])
	}
	if p.arch == "" {
		p.arch = archName(envs[stageArch])
	}
	if p.os == "" && hasDrive(req.Setup.Volumes) {
		p.os = "windows"
	}
	return p
}

// hasDrive says whether a volume lies on a drive of Windows.
func hasDrive(volumes []agentapi.Volume) bool {
	for _, v := range volumes {
		if v.Host != nil && len(v.Host.Path) > 2 && isDrive(v.Host.Path[:1]) && v.Host.Path[1] == ':' {
			return true
		}
	}
	return false
}

// refuseOther says why a stage that wants one platform cannot run on another.
func refuseOther(want, have platform) error {
	if (want.os == "" || want.os == have.os) && (want.arch == "" || want.arch == have.arch) {
		return nil
	}
	return badRequest(fmt.Sprintf("the stage is for %s, this host is %s: correct platform (os, arch) in the pipeline, or the delegate's tags that brought the stage here", want, have))
}

// systemName turns what pipelines write into the toolchain's word, "" for
// anything else.
func systemName(text string) string {
	switch strings.ToLower(text) {
	case "linux", "windows":
		return strings.ToLower(text)
	case "macos", "darwin", "osx":
		return "darwin"
	}
	return ""
}

func archName(text string) string {
	switch strings.ToLower(text) {
	case "amd64", "x86_64", "x64":
		return "amd64"
	case "arm64", "aarch64":
		return "arm64"
	}
	return ""
}
