package optional

import "fmt"

// LoginError tells why a registry refuses an image. [errors.As] finds it in what pulls
// and builds return. Neither it nor Err contains a password or a token.
type LoginError struct {
	Registry string // as names of images have it, such as "docker.io" or "example.org:5000"
	Problem  LoginProblem
	Err      error // the registry's reason, in the engine's words
}

// LoginProblem is what is wrong with a login.
type LoginProblem string

// The problems that a login can have.
const (
	LoginMissing  LoginProblem = "missing"  // the registry wants one, or has no such image, and none is known
	LoginRejected LoginProblem = "rejected" // the registry knows no such user, password or token
	LoginExpired  LoginProblem = "expired"  // its password or token was valid until some time ago
	LoginDenied   LoginProblem = "denied"   // it may not read the image, or there is no such image
)

// Error returns the problem and the reason.
func (e *LoginError) Error() string {
	problem := map[LoginProblem]string{
		LoginMissing:  "the registry %s refuses the image without a login",
		LoginRejected: "the registry %s rejects the login",
		LoginExpired:  "the login at the registry %s has expired",
		LoginDenied:   "the login at the registry %s gives no access to the image",
	}[e.Problem]
	return fmt.Sprintf(problem+": %v", e.Registry, e.Err)
}

// Unwrap makes [errors.Is] see the reason.
func (e *LoginError) Unwrap() error { return e.Err }
