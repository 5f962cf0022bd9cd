//go:build !no_google

package google

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cloud.google.com/go/compute/apiv1/computepb"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// imagePath is the path of an image that a spec or a request names: in full, as
// an address, from its project on, by its name or family alone, or as "x:tag",
// where the part behind the colon counts.
func imagePath(name, project string) string {
	if _, rest, ok := strings.Cut(name, "/compute/v1/"); ok {
		name = rest
	} else if _, tag, ok := strings.Cut(name, ":"); ok {
		name = tag
	}
	switch parts := strings.Split(name, "/"); {
	case parts[0] == "projects":
		return name
	case parts[0] == "global":
		return "projects/" + project + "/" + name
	case parts[0] == "family":
		return "projects/" + project + "/global/images/" + name
	case len(parts) > 1:
		return "projects/" + name
	default:
		return "projects/" + project + "/global/images/" + name
	}
}

// vendors are the projects of images that are signed for a secure boot.
var vendors = []string{"ubuntu-os-cloud", "ubuntu-os-pro-cloud", "debian-cloud", "rocky-linux-cloud", "rhel-cloud", "cos-cloud", "windows-cloud"}

// features is what an image allows.
type features struct {
	// shielded: it boots by UEFI; signed: all of it is its vendor's.
	shielded, signed bool
}

// images remembers what images allow. It is safe for concurrent use.
type images struct {
	a     *account
	known answers[features]
}

// features asks what an image allows. One that may be used and not looked at
// allows nothing beyond what the cloud gives it by itself.
func (m *images) features(ctx context.Context, path string) (features, error) {
	return m.known.of(ctx, path, func(ctx context.Context) (features, error) { return m.ask(ctx, path) })
}

// ask asks the cloud.
func (m *images) ask(ctx context.Context, path string) (features, error) {
	parts := strings.Split(path, "/")
	name, family := parts[len(parts)-1], len(parts) == 6 && parts[4] == "family"
	if !family && len(parts) != 5 || parts[2] != "global" || parts[3] != "images" {
		return features{}, fmt.Errorf("%w: image %s: not of the form projects/P/global/images/I", drivers.ErrInvalid, path)
	}
	var img *computepb.Image
	err := m.a.call(ctx, gets, callPatience, func(ctx context.Context) error {
		c, err := m.a.clients(ctx)
		if err != nil {
			return err
		}
		if family {
			img, err = c.images.GetFromFamily(ctx, &computepb.GetFromFamilyImageRequest{Project: parts[1], Family: name})
		} else {
			img, err = c.images.Get(ctx, &computepb.GetImageRequest{Project: parts[1], Image: name})
		}
		return err
	})
	var f features
	switch {
	case errors.Is(err, drivers.ErrNotFound):
		return f, fmt.Errorf("%w: image %s: %w; `gcloud compute images list` shows what there is", drivers.ErrInvalid, path, err)
	case errors.Is(err, drivers.ErrAuth):
	case err != nil:
		return f, fmt.Errorf("image %s: %w", path, err)
	default:
		f.shielded = slices.ContainsFunc(img.GetGuestOsFeatures(), func(g *computepb.GuestOsFeature) bool { return g.GetType() == "UEFI_COMPATIBLE" })
		f.signed = f.shielded && slices.Contains(vendors, parts[1])
	}
	return f, nil
}
