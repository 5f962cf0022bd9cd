package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// maxStepFile bounds what is read of a file a step leaves, in bytes: it
// travels in one answer.
const maxStepFile = 8 << 20

// collect reads what a step left in its files into its result. Nothing in them
// can fail the step: what cannot be read is told by warn.
func collect(res *agentapi.PollStepResponse, req *agentapi.StartStepRequest, files stepFiles, warn func(string)) {
	succeeded := res.ExitCode == 0 && res.Error == ""
	read := func(path, what string) []pair {
		text, err := readStepFile(path)
		if err != nil {
			warn(fmt.Sprintf("%s cannot be read: %v", what, err))
			return nil
		}
		pairs, problems := parseDotenv(string(text))
		for _, p := range problems {
			warn(fmt.Sprintf("%s, %v", what, p))
		}
		return pairs
	}
	res.Envs, _ = toMap(read(files.exported, "file of exported variables (DRONE_ENV)"))
	var order []string
	res.Outputs, order = toMap(read(files.output, "file of outputs (DRONE_OUTPUT)"))
	res.OutputV2 = outputsV2(req, res.Outputs, order)
	if succeeded {
		secrets, keys := toMap(read(files.secrets, "file of secret outputs (HARNESS_OUTPUT_SECRET_FILE)"))
		for _, k := range keys {
			res.OutputV2 = append(res.OutputV2, agentapi.OutputV2{Key: k, Value: secrets[k], Type: agentapi.OutputSecret})
		}
	}
	artifact, err := readStepFile(files.artifact)
	if err != nil {
		warn(fmt.Sprintf("artifact file (PLUGIN_ARTIFACT_FILE) cannot be read: %v", err))
	}
	res.Artifact = artifact
}

// outputsV2 are the wanted outputs with their types, in the order asked for,
// or without a wish for types all of them, in the order written.
func outputsV2(req *agentapi.StartStepRequest, values map[string]string, order []string) []agentapi.OutputV2 {
	var out []agentapi.OutputV2
	if len(req.Outputs) > 0 {
		for _, o := range req.Outputs {
			if v, ok := values[o.Key]; ok {
				out = append(out, agentapi.OutputV2{Key: o.Key, Value: v, Type: o.Type})
			}
		}
		return out
	}
	for _, k := range order {
		out = append(out, agentapi.OutputV2{Key: k, Value: values[k], Type: agentapi.OutputString})
	}
	return out
}

// toMap returns the values and the keys in the order they first appeared.
func toMap(pairs []pair) (values map[string]string, order []string) {
	if len(pairs) == 0 {
		return nil, nil
	}
	values = make(map[string]string, len(pairs))
	for _, p := range pairs {
		if _, ok := values[p.key]; !ok {
			order = append(order, p.key)
		}
		values[p.key] = p.value
	}
	return values, order
}

// readStepFile returns the content of a regular file, nothing if there is
// none. A step could put a pipe or an endless device in its place, so nothing
// else is opened.
func readStepFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case info.Size() > maxStepFile:
		return nil, fmt.Errorf("%d bytes are more than %d", info.Size(), maxStepFile)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxStepFile))
}
