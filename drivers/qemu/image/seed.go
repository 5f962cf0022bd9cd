package image

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"

	"github.com/kdomanski/iso9660"
)

// guestUnit runs the agent as a service of a machine with systemd.
//
//go:embed guest/runner-guest.service
var guestUnit []byte

// guestRule starts the service where there is a port for an identity.
//
//go:embed guest/60-runner-guest.rules
var guestRule []byte

// vendorData brings the agent into a machine whose disk lacks it.
//
//go:embed guest/vendor-data.sh
var vendorData []byte

// seedLabel is how cloud-init knows a disk that is meant for it.
const seedLabel = "cidata"

// writeSeed writes a disk for cloud-init's NoCloud source with the agent and
// the script that installs it. The script is vendor data, which leaves user
// data to users. Nothing in it belongs to one machine: all machines of an
// image share it, and each boots for the first time.
func writeSeed(w io.Writer, agent []byte) error {
	return writeISO(w, map[string][]byte{
		"meta-data":            []byte("instance-id: local-machine\n"),
		"user-data":            []byte("#cloud-config\n{}\n"),
		"vendor-data":          vendorData,
		"runner-agent":         agent,
		"runner-guest.service": guestUnit,
	})
}

// writeISO writes a file system of a few files that cloud-init takes for a seed.
func writeISO(w io.Writer, files map[string][]byte) error {
	iso, err := iso9660.NewWriter()
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	for name, data := range files {
		if err == nil {
			err = iso.AddFile(bytes.NewReader(data), name)
		}
	}
	if err == nil {
		err = iso.WriteTo(w, seedLabel)
	}
	if cerr := iso.Cleanup(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return nil
}
