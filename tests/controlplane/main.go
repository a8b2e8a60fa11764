// Command controlplane is a Kubernetes control plane for tests in one program: etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler and kubectl, chosen by the first argument.
//
// It also holds the one promise the tests need most: nothing outlives them. Every part except kubectl ends when its
// standard input does. The test process keeps the other end of that pipe, so the kernel itself ends the control plane,
// however the test process dies.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

const usage = `usage: controlplane PART ARGUMENTS...
PART is etcd, kube-apiserver, kube-controller-manager, kube-scheduler or kubectl.
All but kubectl end when their standard input ends.`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	// From here on the part finds its own name in argument 0, as if it had a program of its own.
	os.Args = os.Args[1:]
	switch os.Args[0] {
	case "etcd":
		go exitAtEOF()
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		run(apiserver.NewAPIServerCommand())
	case "kube-controller-manager":
		run(controllermanager.NewControllerManagerCommand())
	case "kube-scheduler":
		run(scheduler.NewSchedulerCommand())
	case "kubectl":
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
	default:
		fmt.Fprintf(os.Stderr, "controlplane: no part is called %q\n%s\n", os.Args[0], usage)
		os.Exit(2)
	}
}

// run runs a server and exits with its status.
func run(command *cobra.Command) {
	go exitAtEOF()
	os.Exit(cli.Run(command))
}

// exitAtEOF ends the process when standard input ends. It does so at once and not gracefully: the state is thrown away
// anyway, and a server that drains its connections would keep the caller waiting.
func exitAtEOF() {
	// An error is an end too: nobody can be waited for on a broken pipe.
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
