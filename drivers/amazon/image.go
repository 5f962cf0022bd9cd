//go:build !no_amazon

package amazon

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// keepImage is how long an image and what it is like are remembered: names and
// parameters come to mean newer ones.
const keepImage = time.Hour

// image is what a launch must know of an image.
type image struct{ id, root string }

// instanceType is what a launch must know of a type.
type instanceType struct {
	memoryMiB              int64
	hibernates, metal, gpu bool
}

// idRule is an image's id; anything else is a name or the path of a parameter.
var idRule = regexp.MustCompile(`^ami-[0-9A-Za-z]{8,}$`)

// imageOf finds the image a request or the pool names.
func (d *Driver) imageOf(ctx context.Context, name string) (image, error) {
	if name == "" {
		return image{}, fmt.Errorf("%w: neither the request nor the pool names an image; set ami", drivers.ErrInvalid)
	}
	return d.images.get(ctx, name, keepImage, func() (image, error) {
		id, owners, filters := name, []string(nil), []filter(nil)
		if path, ok := strings.CutPrefix(name, "resolve:ssm:"); ok || strings.HasPrefix(name, "/aws/") {
			out, err := d.ssm.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String(path)})
			if err != nil {
				return image{}, d.explain(err, "ssm:GetParameter of "+path)
			}
			id = aws.ToString(out.Parameter.Value)
		}
		in := &ec2.DescribeImagesInput{}
		if idRule.MatchString(id) {
			in.ImageIds = []string{id}
		} else {
			owners, filters = []string{"amazon", "self"}, []filter{by("name", id), by("state", "available")}
			in.Owners, in.Filters = owners, filters
		}
		var all []types.Image
		for pages := ec2.NewDescribeImagesPaginator(d.ec2, in); pages.HasMorePages(); {
			out, err := pages.NextPage(ctx)
			if err != nil {
				return image{}, d.explain(err, "DescribeImages")
			}
			all = append(all, out.Images...)
		}
		if len(all) == 0 {
			return image{}, fmt.Errorf("%w: image %q: Amazon and this account have none of that name in %s; check ami and account.region", drivers.ErrInvalid, id, d.region)
		}
		newest := slices.MaxFunc(all, func(a, b types.Image) int {
			return cmp.Compare(aws.ToString(a.CreationDate), aws.ToString(b.CreationDate))
		})
		return image{aws.ToString(newest.ImageId), aws.ToString(newest.RootDeviceName)}, nil
	})
}

// typeOf finds out what a type can.
func (d *Driver) typeOf(ctx context.Context, name string) (instanceType, error) {
	return d.types.get(ctx, name, keepImage, func() (instanceType, error) {
		out, err := d.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{types.InstanceType(name)}})
		if err != nil {
			return instanceType{}, d.explain(err, "DescribeInstanceTypes")
		}
		if len(out.InstanceTypes) == 0 {
			return instanceType{}, fmt.Errorf("%w: instance type %s is not known in %s; check size and account.region", drivers.ErrInvalid, name, d.region)
		}
		t := out.InstanceTypes[0]
		it := instanceType{hibernates: aws.ToBool(t.HibernationSupported), metal: aws.ToBool(t.BareMetal), gpu: t.GpuInfo != nil && len(t.GpuInfo.Gpus) > 0}
		if t.MemoryInfo != nil {
			it.memoryMiB = aws.ToInt64(t.MemoryInfo.SizeInMiB)
		}
		return it, nil
	})
}

// mostMemory is what EC2 writes to disk at most.
const mostMemory = 150 << 10 // MiB

// able checks what a type must be able to before it is launched.
func (d *Driver) able(ctx context.Context, spec *drivers.Spec, size string, root *types.EbsBlockDevice) error {
	if !spec.Hibernate && !spec.Nested && !spec.GPU {
		return nil
	}
	t, err := d.typeOf(ctx, size)
	if err != nil {
		return err
	}
	why := ""
	switch {
	case spec.Nested && !t.metal:
		why = "has no nested virtualisation; only bare-metal types do"
	case spec.GPU && !t.gpu:
		why = "has no GPU; choose a type that has, such as g5.xlarge"
	case !spec.Hibernate:
		return nil
	case !t.hibernates || t.metal:
		why = "cannot hibernate; choose another size or hibernate: false"
	case t.memoryMiB >= mostMemory:
		why = fmt.Sprintf("has %d GiB of memory and hibernates with less than 150; choose a smaller size or hibernate: false", t.memoryMiB>>10)
	case int64(aws.ToInt32(root.VolumeSize))<<10 < t.memoryMiB:
		why = fmt.Sprintf("has %d MiB of memory, more than the root volume of %d GiB can take when it hibernates; raise disk.size", t.memoryMiB, aws.ToInt32(root.VolumeSize))
	case root.VolumeType == types.VolumeTypeStandard:
		why = "cannot hibernate to a volume of type standard; set disk.type to gp3"
	default:
		return nil
	}
	return fmt.Errorf("%w: instance type %s %s", drivers.ErrInvalid, size, why)
}
