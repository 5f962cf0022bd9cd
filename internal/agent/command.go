package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// errNoEntrypoint has the text callers know.
var errNoEntrypoint = errors.New("step entrypoint cannot be empty")

// argv returns what a host step runs: the entrypoint, then each command as one
// argument. Code that writes the wanted outputs is added to the first command;
// shown is what the user wrote, without it.
func argv(req *agentapi.StartStepRequest, files stepFiles) (args []string, shown string, err error) {
	entrypoint, commands, err := userCommand(req)
	if err != nil {
		return nil, "", err
	}
	wanted := wantedOutputs(req)
	if len(entrypoint) == 0 || entrypoint[0] == "" {
		return nil, "", errNoEntrypoint
	}
	if len(wanted) > 0 {
		if len(commands) == 0 {
			return nil, "", errors.New("output variables need a command to take them from")
		}
		shown = strings.Join(commands, "")
		code := outputCode(entrypoint[0], wanted, files.output)
		commands = append([]string{commands[0] + code}, commands[1:]...)
	} else {
		shown = strings.Join(commands, "")
	}
	args = append(args, entrypoint...)
	return append(args, commands...), shown, nil
}

// containerArgv is argv for a container, where both are the image's if they are
// empty.
func containerArgv(req *agentapi.StartStepRequest, files stepFiles) (entrypoint, commands []string, shown string, err error) {
	entrypoint, commands, err = userCommand(req)
	if err != nil {
		return nil, nil, "", err
	}
	shown = strings.Join(commands, "")
	wanted := wantedOutputs(req)
	if len(wanted) == 0 {
		return entrypoint, commands, shown, nil
	}
	if len(entrypoint) == 0 || len(commands) == 0 {
		return nil, nil, "", errors.New("output variables need an entrypoint and a command to take them from")
	}
	code := outputCode(entrypoint[0], wanted, files.output)
	return entrypoint, append([]string{commands[0] + code}, commands[1:]...), shown, nil
}

// userCommand reads the member of the request its kind names.
func userCommand(req *agentapi.StartStepRequest) (entrypoint, commands []string, err error) {
	switch req.Kind {
	case agentapi.KindRunTestsV2:
		if req.RunTestV2.IntelligenceMode {
			return nil, nil, errors.New("test intelligence is not built in yet; set intelligence_mode to false")
		}
		return req.RunTestV2.Entrypoint, req.RunTestV2.Commands, nil
	case agentapi.KindRunTest:
		rt := req.RunTest
		if rt.RunOnlySelectedTests || rt.ParallelizeTests {
			return nil, nil, errors.New("test selection and splitting are not built in yet; set run_only_selected_tests and parallelize_tests to false")
		}
		var lines []string
		for _, l := range []string{rt.PreCommand, rt.Args, rt.PostCommand} {
			if l != "" {
				lines = append(lines, l)
			}
		}
		return rt.Entrypoint, []string{strings.Join(lines, "\n")}, nil
	default:
		if b := req.Run.Binary; b.Name != "" || len(b.Source) > 0 {
			return nil, nil, errors.New("run.binary: this agent fetches no programs; fetch it in a step of your own and name it in run.entrypoint")
		}
		return req.Run.Entrypoint, req.Run.Commands, nil
	}
}

// wantedOutputs are the outputs asked for: outputs if there are any, else
// output_vars.
func wantedOutputs(req *agentapi.StartStepRequest) []agentapi.Output {
	if len(req.Outputs) > 0 {
		return req.Outputs
	}
	wanted := make([]agentapi.Output, 0, len(req.OutputVars))
	for _, v := range req.OutputVars {
		wanted = append(wanted, agentapi.Output{Key: v, Value: v})
	}
	return wanted
}

// outputCode is code in the language of entrypoint that appends each wanted
// variable to file. Values travel as base64, so that several lines, quotes and
// blanks survive; a shell without base64 writes them plainly.
func outputCode(entrypoint string, wanted []agentapi.Output, file string) string {
	var b strings.Builder
	switch shellOf(entrypoint) {
	case powershell:
		for _, o := range wanted {
			fmt.Fprintf(&b, "\n$__v = if (Test-Path 'Env:%[2]s') { $Env:%[2]s } else { $%[2]s }"+
				"\nAdd-Content -Path %[3]s -Value (%[1]s + '="+b64Prefix+"' + [Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes([string]$__v)))",
				quotePowershell(o.Key), o.Value, quotePowershell(file))
		}
	case python:
		b.WriteString("\nimport base64 as __b64, os as __os\n")
		for _, o := range wanted {
			fmt.Fprintf(&b, "with open(%s, 'a') as __f: __f.write(%s + '="+b64Prefix+"' + __b64.b64encode(__os.getenv(%s, '').encode()).decode() + '\\n')\n",
				quotePython(file), quotePython(o.Key), quotePython(o.Value))
		}
	default:
		for _, o := range wanted {
			value := "$" + o.Value
			if isIdentifier(o.Value) {
				value = "${" + o.Value + "-}" // unset is empty, also under set -u
			}
			fmt.Fprintf(&b, "\nif command -v base64 >/dev/null 2>&1; then printf '%%s="+b64Prefix+"%%s\\n' %[1]s \"$(printf '%%s' \"%[2]s\" | base64 | tr -d '\\n')\" >> %[3]s; else printf '%%s=%%s\\n' %[1]s \"%[2]s\" >> %[3]s; fi",
				quoteShell(o.Key), value, quoteShell(file))
		}
	}
	return b.String()
}

// isIdentifier says whether name can be a shell variable's.
func isIdentifier(name string) bool {
	if name == "" || '0' <= name[0] && name[0] <= '9' {
		return false
	}
	for i := range len(name) {
		if !isWord(name[i]) {
			return false
		}
	}
	return true
}

type shell int

const (
	posix shell = iota
	powershell
	python
)

func shellOf(entrypoint string) shell {
	name := strings.ToLower(filepath.Base(strings.ReplaceAll(entrypoint, `\`, "/")))
	switch name = strings.TrimSuffix(name, ".exe"); {
	case name == "powershell" || name == "pwsh":
		return powershell
	case strings.HasPrefix(name, "python"):
		return python
	}
	return posix
}

func quoteShell(s string) string      { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
func quotePowershell(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func quotePython(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`, "\n", `\n`).Replace(s) + "'"
}

// header is what a step that is not in drone mode prints first: the command,
// each line in bold yellow. Nothing resets the colour; readers expect that.
func header(command string) string {
	const bold = "\x1b[33;1m"
	var b strings.Builder
	b.WriteString(bold + "Executing the following command(s):\n")
	for line := range strings.SplitSeq(strings.TrimSuffix(command, "\n"), "\n") {
		b.WriteString(bold + line + "\n")
	}
	return b.String()
}
