//go:build !no_amazon

package amazon

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Times of the host's own affairs and of one attempt of a call.
const (
	loadTimeout    = 10 * time.Second
	regionTimeout  = 2 * time.Second
	attemptTimeout = time.Minute
	longestBackoff = 20 * time.Second // the SDK's own
)

// keys are static credentials; empty ones leave it to the chain of AWS.
type keys struct{ id, secret, token string }

// keyOf are the pool's own credentials, or those of the runner's environment.
func keyOf(a Account, getenv func(string) string) keys {
	if a.AccessKeyID != "" {
		return keys{a.AccessKeyID, a.AccessKeySecret, a.SessionToken}
	}
	k := keys{getenv("AMAZON_ACCESS_KEY_ID"), getenv("AMAZON_ACCESS_KEY_SECRET"), getenv("AMAZON_SESSION_TOKEN")}
	if k.id == "" || k.secret == "" {
		return keys{}
	}
	return k
}

// loadAccount is how calls are made: region, credentials, attempts.
func loadAccount(a Account, s setup) (aws.Config, error) {
	options := []func(*config.LoadOptions) error{
		config.WithRetryer(func() aws.Retryer { return newRetryer(a.Retries) }),
	}
	if a.Region != "" {
		options = append(options, config.WithRegion(a.Region))
	}
	if k := keyOf(a, s.getenv); k.id != "" {
		options = append(options, config.WithCredentialsProvider(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: k.id, SecretAccessKey: k.secret, SessionToken: k.token, Source: "pool file or AMAZON_ACCESS_KEY_ID"}, nil
		})))
	}
	if s.http != nil {
		options = append(options, config.WithHTTPClient(s.http))
	} else {
		options = append(options, config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(attemptTimeout)))
	}
	// Files and variables of this host only; New has no context of its own.
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	conf, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, fmt.Errorf("%w: configuration of AWS: %w; look at AWS_PROFILE and the files in ~/.aws", drivers.ErrInvalid, err)
	}
	if conf.Region == "" {
		ctx, cancel := context.WithTimeout(ctx, regionTimeout)
		defer cancel()
		out, err := imds.NewFromConfig(conf).GetRegion(ctx, nil)
		if err != nil {
			return aws.Config{}, fmt.Errorf("%w: no region; set account.region in the pool's spec, or AWS_REGION", drivers.ErrInvalid)
		}
		conf.Region = out.Region
	}
	conf.Credentials = aws.NewCredentialsCache(honest{conf.Credentials})
	return conf, nil
}

// honest marks the errors of finding credentials, which have no type of their
// own.
type honest struct{ aws.CredentialsProvider }

// Retrieve implements aws.CredentialsProvider.
func (h honest) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if h.CredentialsProvider == nil {
		return aws.Credentials{}, &credentialsError{fmt.Errorf("none configured")}
	}
	c, err := h.CredentialsProvider.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		err = &credentialsError{err}
	}
	return c, err
}

// credentialsError says that there are no credentials to call with.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// newRetryer is the SDK's own, told that a lack of capacity does not pass by
// asking again: EC2 answers it as an HTTP 500.
func newRetryer(attempts int) aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = max(1, attempts)
		o.MaxBackoff = longestBackoff
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(func(err error) aws.Ternary {
			if capacityCodes[codeOf(err)] {
				return aws.FalseTernary
			}
			return aws.UnknownTernary
		})}, o.Retryables...)
	})
}

// scopeOf names region and account. The id of an access key has the account's
// number in it; of older keys and of the chain of AWS no account is known: the
// former are told apart by the key, the latter are one in a process.
func scopeOf(region string, k keys) string {
	scope := "amazon:" + region
	if k.id == "" {
		return scope
	}
	if account, ok := accountOf(k.id); ok {
		return scope + ":" + account
	}
	sum := sha256.Sum256([]byte(k.id))
	return scope + ":key-" + hex.EncodeToString(sum[:6])
}

// accountOf reads the account from a key's id: behind the prefix, in base 32,
// 40 bits after the first. Keys with an I or J there are older than that.
func accountOf(id string) (string, bool) {
	if len(id) != 20 || !strings.HasPrefix(id, "AKIA") && !strings.HasPrefix(id, "ASIA") || id[4] == 'I' || id[4] == 'J' {
		return "", false
	}
	raw, err := base32.StdEncoding.DecodeString(id[4:])
	if err != nil {
		return "", false
	}
	var n uint64
	for _, b := range raw[:6] {
		n = n<<8 | uint64(b)
	}
	return fmt.Sprintf("%012d", n>>7&(1<<40-1)), true
}
