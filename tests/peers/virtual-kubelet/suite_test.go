// Package peer runs virtual-kubelet's own end-to-end cases, unchanged, against a holdfast node.
package peer

import (
	"flag"
	"testing"

	"github.com/virtual-kubelet/virtual-kubelet/test/e2e"
)

var (
	kubeconfig = flag.String("kubeconfig", "", "the kubeconfig file of the cluster")
	namespace  = flag.String("namespace", "default", "where pods are made; needs a pod named like the node")
	node       = flag.String("node-name", "", "the node under test")
)

func TestVirtualKubelet(t *testing.T) {
	nothing := func() error { return nil }
	suite := e2e.NewEndToEndTestSuite(e2e.EndToEndTestSuiteConfig{
		Kubeconfig:     *kubeconfig,
		Namespace:      *namespace,
		NodeName:       *node,
		Setup:          nothing,
		Teardown:       nothing,
		ShouldSkipTest: func(string) bool { return false },
	})
	suite.Run(t)
}
