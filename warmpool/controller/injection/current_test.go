package injection_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/warmpool/controller/injection"
)

func TestTheLastGoodConfigurationStaysInForce(t *testing.T) {
	var c injection.Current
	told := 0
	c.Subscribe(func() { told++ })
	valid := injection.Valid(&c)

	_, err := c.Config()
	require.ErrorIs(t, err, injection.ErrUnknown, "nobody has looked")
	c.Missing()
	_, err = c.Config()
	require.ErrorIs(t, err, injection.ErrNone)
	require.ErrorContains(t, err, "sandbox-system/sandbox-injection-config does not exist")
	require.Error(t, c.Set(map[string]string{"csi": "{"}))
	_, err = c.Config()
	require.ErrorIs(t, err, injection.ErrNone)
	require.ErrorContains(t, err, "csi")
	require.Zero(t, testutil.ToFloat64(valid))

	require.NoError(t, c.Set(map[string]string{"csi": "labels: {a: b}"}))
	require.Empty(t, c.Fault())
	require.EqualValues(t, 1, testutil.ToFloat64(valid))
	for _, spoil := range []func(){func() { require.Error(t, c.Set(map[string]string{"x": "[]"})) }, c.Missing} {
		spoil()
		config, err := c.Config()
		require.NoError(t, err)
		require.Equal(t, []string{"csi"}, config.Names())
		require.NotEmpty(t, c.Fault())
		require.Zero(t, testutil.ToFloat64(valid))
	}
	require.NoError(t, c.Set(map[string]string{"csi": "labels: {a: c}"}))
	require.Empty(t, c.Fault())
	require.Equal(t, 6, told)
}

func TestWhatWasInForceInAnEarlierLifeIsRecalledUnlessThereIsBetter(t *testing.T) {
	var c injection.Current
	c.Missing()
	require.Nil(t, c.Data())
	require.Error(t, c.Recall(map[string]string{"csi": "{"}))
	require.NoError(t, c.Recall(map[string]string{"csi": "labels: {a: b}"}))
	config, err := c.Config()
	require.NoError(t, err)
	require.Equal(t, []string{"csi"}, config.Names())
	require.NotEmpty(t, c.Fault(), "the ConfigMap is as missing as before")
	require.NoError(t, c.Set(map[string]string{"other": "labels: {a: c}"}))
	require.NoError(t, c.Recall(map[string]string{"csi": "labels: {a: b}"}))
	require.Equal(t, map[string]string{"other": "labels: {a: c}"}, c.Data())
}
