//go:build !no_amazon

package amazon

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// userData makes a boot script fit: compressed where it must be and the guest
// can read that, as cloud-init does.
func userData(boot []byte, os string) (*string, error) {
	if len(boot) == 0 {
		return nil, nil
	}
	data := boot
	if len(data) > maxBoot {
		if os == "windows" {
			return nil, fmt.Errorf("%w: the boot script has %d bytes and EC2 takes %d; shorten user_data", drivers.ErrInvalid, len(boot), maxBoot)
		}
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			return nil, fmt.Errorf("compress boot script: %w", err)
		}
		// A buffer takes everything.
		_, _ = z.Write(boot)
		_ = z.Close()
		if data = b.Bytes(); len(data) > maxBoot {
			return nil, fmt.Errorf("%w: the boot script has %d bytes, compressed %d, and EC2 takes %d; shorten user_data, or have it fetch the rest",
				drivers.ErrInvalid, len(boot), len(data), maxBoot)
		}
	}
	text := base64.StdEncoding.EncodeToString(data)
	return &text, nil
}
