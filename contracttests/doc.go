// Package contracttests certifies adapters: it runs one case for each obligation
// that the comments of package core number (RT-21, CF-04, …), against a real runtime.
//
// # Certifying an adapter
//
//	func TestContract(t *testing.T) {
//		contracttests.Run(t, contracttests.Harness{
//			Name:        "docker",
//			New:         func(t testing.TB) core.Runtime { … },
//			Absent:      func() string { … }, // why there is no engine here, or ""
//			Unreachable: func(t testing.TB) core.Runtime { … },
//
//			Image:            "moat/test-base:latest",
//			ConfigImage:      "moat/test-config:latest",
//			PullImage:        "127.0.0.1:5000/moat/test-pull:latest",
//			MissingImage:     "127.0.0.1:5000/moat/missing:latest",
//			UnreachableImage: "127.0.0.1:1/moat/unreachable:latest",
//		}, contracttests.Options{
//			Unsupported: map[string]string{"RT-100": "attach is not implemented yet"},
//			Golden:      "testdata/contract.golden",
//		})
//	}
//
// Begin with the lifecycle (RT-10 to RT-66), then logs, images, configuration, and
// ports: `go test -run 'TestContract/RT-2'` runs what begins with RT-2. Run must
// not share its test with t.Parallel: some cases count goroutines.
//
// Every case gets a fresh runtime and fresh containers, labelled with a run ID of its own.
// A case fails if it leaves an object behind, or if its cleanup fails.
//
// # What a runtime does not support
//
// The zero [Options] test everything. A case that is declared unsupported is tested
// too: its call must return [core.ErrUnsupported] and change nothing. Where
// [optional.Capabilities] or an optional interface tells whether a case is supported, what
// they tell and what is declared must agree, in both directions. Some cases cannot
// be declared: without them it is no runtime.
//
// Package conform builds the suite into a program that runs without the go command.
//
// # Environment
//
//   - CONTRACT_REQUIRED=docker,gvisor: an absent engine fails these harnesses
//     instead of skipping them.
//   - CONTRACT_UPDATE=1: writes the golden file, when every case ran and none failed.
//
// # Images
//
// The command cmd/image of this module writes them, as archives that engines load:
//
//	go run github.com/moatproject/moat/contracttests/cmd/image -busybox FILE moat/test-base:latest | docker load
//
// [Harness.Image] and [Harness.PullImage] have no entrypoint, run as root, know the
// user tester (1000:1000), and have the program agent in their path. Most containers of
// the suite run its verbs (package agent), which look at the process by system calls. A
// runtime inside a process of Go calls the same verbs.
//
// Some cases need a POSIX shell, with loops, $( ) and redirections, because they are about
// one (builds, and the readiness commands of services), or have not moved to verbs yet
// (copies, and limits). They use
//
//	cat dd echo grep id ls mkdir pwd sleep stat su touch true
//
// The cases about set-user-ID programs need BusyBox if the kernel does not show NoNewPrivs in
// /proc/self/status. Builds need the shell as /bin/sh with $RANDOM, and readlink where
// links can be copied. A shell ends a container's background jobs with it.
//
// [Harness.ConfigImage] is the same with an entrypoint that sets ENTRYPOINT_RAN=yes and
// executes its arguments, FROM_IMAGE=yes in its environment, tester as its user,
// /home/tester as its working directory and sh as its command.
package contracttests
