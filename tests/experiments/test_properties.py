"""Properties of the public face under any input: the same numbers give the same answers, and all others are refused."""

import gc
import math
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import dbn
from dbn import (
    DBN,
    RBM,
    Bernoulli,
    Categorical,
    DivergenceError,
    Gaussian,
    ReLU,
    Spin,
    bracket,
    datasets,
    evaluate,
    initialise,
    log_likelihood,
    lower_bound,
    predict,
    pseudo_log_likelihood,
    reverse_ais,
    score_by_ais,
    train,
)
from experiments import fuzz
from experiments.fuzzing import verdict
from experiments.fuzzing.arguments import VISIBLE, one_of
from experiments.fuzzing.public_api import Entry
from experiments.fuzzing.subjects import draw_rbm, nothing
from tests.support.selection import slow_but_for

FEW = settings(deadline=None, max_examples=20, derandomize=True)
WIDTH = 4
QUIET = {"progress": False, "seed": 0}


def spread(x):
    wide = torch.full((*x.shape, 2), math.nan, dtype=x.dtype)
    wide[..., 0] = x
    return wide[..., 0]


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


#: How the numbers of an array of float64 may come along; each of these holds small whole numbers exactly.
DRESSES = {
    **{f"tensor {kind}": lambda x, kind=kind: torch.from_numpy(x).to(kind)
       for kind in (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int8, torch.int64)},
    **{f"array {kind}": lambda x, kind=kind: x.astype(kind)
       for kind in ("f2", "f4", ">f4", ">f8", "longdouble", "i1", ">i2", "i8")},
    "gaps": lambda x: spread(torch.from_numpy(x)),
    "transposed": lambda x: torch.from_numpy(x.T.copy()).T,
    "columns": lambda x: np.asfortranarray(x),
    "reversed": lambda x: x[::-1].copy()[::-1],
    "mirrored": lambda x: x[:, ::-1].copy()[:, ::-1],
    "every second": lambda x: np.repeat(x, 2, 0)[::2],
    "read-only": frozen,
    "gradient": lambda x: torch.from_numpy(x.copy()).requires_grad_(),
    "inference": lambda x: torch.inference_mode()(torch.from_numpy(x).clone)(),
    "folded": lambda x: x.reshape(len(x), 2, WIDTH // 2),
}  # fmt: skip
ROWS = arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(WIDTH)), elements=st.sampled_from([0.0, 1.0]))
DRESSED = st.sampled_from(sorted(DRESSES))

RBMS = {kind.__name__: RBM(kind(WIDTH), 3, weight_scale=0.5, seed=0) for kind in (Bernoulli, Gaussian, ReLU)}
STACK = DBN([WIDTH, 3, 2], weight_scale=0.5, seed=0)
NETWORK = STACK.to_mlp(2, seed=0)
ANSWERS = {
    **{name: lambda x, rbm, name=name: getattr(rbm, name)(x)
       for name in ("free_energy", "hidden_field", "mean_hidden", "reconstruct")},
    "sample_hidden": lambda x, rbm: rbm.sample_hidden(x, seed=1),
    "gibbs": lambda x, rbm: rbm.gibbs(x, 2, seed=1),
    "no gibbs": lambda x, rbm: rbm.gibbs(x, 0),
    "energy": lambda x, rbm: rbm.energy(x, torch.ones(1, 3)),
    "encode": lambda x, rbm: STACK.encode(x),
    "predict": lambda x, rbm: predict(NETWORK, x),
    "log_likelihood": lambda x, rbm: log_likelihood(rbm, x, 1.5),
    "pseudo_log_likelihood": lambda x, rbm: pseudo_log_likelihood(RBMS["Bernoulli"], x),
    "lower_bound": lambda x, rbm: lower_bound(STACK, x, 1.5, samples=2, seed=1),
    "reverse_ais": lambda x, rbm: torch.tensor(reverse_ais(rbm, x, temperatures=2, **QUIET)[:4]),
    "bracket": lambda x, rbm: torch.tensor(bracket(rbm, x, chains=2, temperatures=2, gibbs_steps=1, **QUIET).value),
    "train": lambda x, rbm: trained(x),
}  # fmt: skip


def trained(x):
    rbm = RBM(WIDTH, 3, seed=0)
    train(rbm, x, epochs=1, batch_size=2, **QUIET)
    return rbm.weight


@pytest.mark.parametrize("name", ANSWERS)
@given(rows=ROWS, dress=DRESSED, kind=st.sampled_from(sorted(RBMS)))
@FEW
def test_the_same_numbers_give_the_same_answer_however_they_come(name, rows, dress, kind):
    given_rows = DRESSES[dress](rows)
    before = repr(given_rows)
    plain = ANSWERS[name](torch.from_numpy(rows).float().contiguous(), RBMS[kind])
    assert torch.equal(ANSWERS[name](given_rows, RBMS[kind]), plain)
    assert repr(given_rows) == before


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        if isinstance(self.items[place], Exception):
            raise self.items[place]
        return self.items[place]


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@given(rows=ROWS, kind=st.sampled_from(["f4", ">f4", "f8", "i2", "longdouble"]), still=st.booleans())
@FEW
def test_arrays_of_a_data_set_may_be_read_only_and_of_any_byte_order(rows, kind, still):
    items = [frozen(row) if still else row for row in rows.astype(kind)]
    assert torch.equal(trained(Items(items)), trained(TensorDataset(torch.from_numpy(rows).float())))
    trained(Stream(items))
    trained(DataLoader(TensorDataset(torch.from_numpy(rows)), 2))


@pytest.mark.parametrize(
    "items",
    [
        [None, None],
        ["a", "b"],
        [torch.zeros(WIDTH), torch.zeros(WIDTH + 1)],
        [{"x": torch.zeros(WIDTH)}],
        [()],
        [np.full(WIDTH, None)],
        [np.zeros(WIDTH, complex)],
    ],
)
@pytest.mark.parametrize("make", [Items, Stream])
def test_items_that_are_no_rows_are_refused_by_name_before_anything_is_changed(items, make):
    rbm = RBM(WIDTH, 3, seed=0)
    before = rbm.weight.detach().clone()
    with pytest.raises(TypeError, match=r"^data .*: (give|yield)"):
        train(rbm, make(items), epochs=1, **QUIET)
    assert torch.equal(rbm.weight, before)


def test_what_a_data_set_raises_itself_passes_through_unchanged():
    broken = KeyError("row 1")
    with pytest.raises(KeyError) as caught:
        trained(Items([torch.zeros(WIDTH), broken]))
    assert caught.value is broken


ANY_ARRAY = st.one_of(
    arrays.floating_dtypes(), arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(), arrays.boolean_dtypes(),
    arrays.complex_number_dtypes(), arrays.unicode_string_dtypes(max_len=3), arrays.datetime64_dtypes(),
).flatmap(lambda dtype: arrays.arrays(dtype, st.one_of(
    st.tuples(st.integers(0, 4), st.just(WIDTH)), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)),
))  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
@given(array=ANY_ARRAY)
@FEW
def test_any_array_gives_an_answer_or_an_error_that_names_the_argument(name, array):
    try:
        ANSWERS[name](array, RBMS["Gaussian"])
    except DivergenceError:
        return
    except (ValueError, TypeError) as error:
        refused = str(error)
    else:
        return
    assert refused.split()[0] in {"v", "x", "samples", "data"}
    assert ": " in refused


ODD = {
    "masked": np.ma.masked_array(np.zeros((2, WIDTH)), mask=True),
    "meta": torch.zeros(2, WIDTH, device="meta"),
    "uint64": np.full((2, WIDTH), 2**64 - 1, dtype=np.uint64),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ANSWERS)
def test_arrays_without_numbers_of_their_own_are_refused_by_name(name, odd):
    with pytest.raises((TypeError, ValueError), match=r"^(v|x|data|samples) (is|has) .*: "):
        ANSWERS[name](ODD[odd], RBMS["Gaussian"])


@pytest.mark.skipif(not hasattr(torch, "quantize_per_tensor"), reason="this torch quantises in other ways")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_tensors_are_refused_by_name():
    with pytest.raises(TypeError, match=r"^v is a torch.strided tensor of dtype torch.qint8: give a dense tensor"):
        RBM(WIDTH, 3).free_energy(torch.quantize_per_tensor(torch.zeros(2, WIDTH), 0.1, 0, torch.qint8))


def test_numbers_beyond_the_precision_of_the_rbm_are_refused_before_anything_changes():
    rbm = RBM(Gaussian(2), 2, seed=0)
    with pytest.raises(ValueError, match=r"^data lies in 0\.\.1e\+300, which torch.float32 cannot hold: rescale"):
        train(rbm, np.array([[0.0, 1e300]]), epochs=1, **QUIET)
    train(rbm.double(), np.array([[0.0, 1e150]]), epochs=0, **QUIET)


@pytest.mark.parametrize("units", [Gaussian(2), Spin(2), Categorical(2)])
def test_zero_rows_give_zero_likelihoods_and_zero_samples(units):
    rbm, none = RBM(units, 2, seed=0), torch.zeros(0, 2)
    assert rbm.free_energy(none).shape == log_likelihood(rbm, none, 0.0).shape == (0,)
    for call in (reverse_ais, bracket):
        with pytest.raises(ValueError, match=r"^(samples|data) is empty: "):
            call(rbm, none, temperatures=2, progress=False)
    with pytest.raises(ValueError, match=r"^held_back is empty"):
        score_by_ais(none)
    with pytest.raises(ValueError, match=r"^data is empty"):
        DBN([units, 2]).to_mlp(2, transfer="relu_rescaled", data=none)


def test_chains_that_leave_the_finite_numbers_are_not_returned():
    rbm = RBM(Gaussian(2), Gaussian(2), weight_scale=50.0, seed=0)
    with pytest.raises(DivergenceError, match="have no distribution with weights this large"):
        rbm.gibbs(torch.ones(1, 2), 100, seed=0)
    with pytest.raises(ValueError, match="v has NaN or infinite values in 1 of 1 rows"):
        rbm.gibbs(torch.full((1, 2), math.nan), 1, seed=0)


@pytest.mark.parametrize("scheme", dbn.initialisation.SCHEMES)
def test_layers_without_inputs_are_left_in_peace(scheme):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns when such a layer is made
        layer = torch.nn.Linear(0, 3)
    assert initialise(layer, scheme, seed=0).weight.shape == (3, 0)


@given(content=st.binary(max_size=200), start=st.sampled_from([b"", b"a,b,label\n1,2,0\n", b"PK\x03\x04"]))
@FEW
def test_any_bytes_are_a_data_set_or_refused_by_name(tmp_path_factory, content, start):
    for suffix in ("csv", "npz"):
        path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
        path.write_bytes(start + content)
        with pytest.raises(ValueError, match=rf"any\.{suffix}|name_or_file"):
            datasets.load(path, progress=False)


@pytest.mark.parametrize(("offset", "byte"), [(3, 0x03), (10, 0x63)], ids=["signature", "compression"])
def test_a_damaged_archive_is_refused_and_closed(offset, byte, tmp_path):
    path = tmp_path / "damaged.npz"
    np.savez(path, x=np.zeros((20, 2)))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = byte  # in the archive's own table of contents
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match=r"damaged\.npz: "):
            datasets.load(path)
        gc.collect()
    assert not heard


#: Names whose arguments are not all checked yet: what trains, and what judges networks.
@pytest.mark.slow
def test_no_input_of_the_fuzz_is_a_finding(tmp_path, capsys):
    content = fuzz.main(["tiny", "--out", str(tmp_path)])
    assert sum(row["calls"] for row in content["counts"].values()) == 300
    assert "no findings" in capsys.readouterr().out
    assert (tmp_path / "results.json").is_file()


def changed_first(rbm, v):
    with torch.no_grad():
        rbm.weight.add_(1)
    raise ValueError("v is wrong: give another")


def refused_outside(rbm, v):
    raise ValueError("v is wrong: give another")


BROKEN = {
    "raises": (lambda rbm, v: {}["v"], "raises KeyError"),
    "raises elsewhere": (refused_outside, "raises ValueError"),
    "warns": (lambda rbm, v: warnings.warn("v", stacklevel=1), "warns by UserWarning"),
    "NaN": (lambda rbm, v: torch.tensor(math.nan), "NaN out of finite numbers"),
    "slow": (lambda rbm, v: [None for _ in iter(int, 1)], "takes too long"),
    "waiting": (lambda rbm, v: time.sleep(60), "takes too long"),
}


@pytest.mark.parametrize("name", slow_but_for(set(BROKEN) - {"waiting"}, BROKEN))
def test_the_fuzz_finds_what_is_broken(name, tmp_path, monkeypatch, capsys):
    call, words = BROKEN[name]
    monkeypatch.setitem(
        fuzz.PUBLIC_API, "broken", Entry(draw_rbm, call, {"v": VISIBLE._replace(invalid=VISIBLE.valid)})
    )
    with pytest.raises(ValueError, match="1 kinds of finding in 2 calls"):
        fuzz.main(["--cases", "2", "--faces", "broken", "--seconds", "0.2", "--out", str(tmp_path)])
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "words"), [(changed_first, "something changed"), (lambda rbm, v: len(3), "raises TypeError")]
)
def test_the_fuzz_finds_what_a_refused_call_has_changed(call, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verdict, "_is_documented", lambda error: "give another" in str(error))
    monkeypatch.setitem(
        fuzz.PUBLIC_API, "broken", Entry(draw_rbm, call, {"v": VISIBLE._replace(invalid=VISIBLE.valid)})
    )
    with pytest.raises(ValueError, match="finding"):
        fuzz.main(["--cases", "2", "--faces", "broken", "--out", str(tmp_path)])
    assert words in capsys.readouterr().out


def test_a_case_of_the_fuzz_can_be_had_again_by_its_number(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setitem(
        fuzz.PUBLIC_API, "seen", Entry(nothing, lambda _, n: seen.append(n), {"n": one_of(list(range(99)))})
    )
    for first, cases in (("0", "9"), ("8", "1")):
        fuzz.main(["--cases", cases, "--first", first, "--faces", "seen", "--out", str(tmp_path)])
    assert len(seen) == 10
    assert repr(seen[-1]) == repr(seen[-2])


def test_the_fuzz_knows_its_names(tmp_path):
    with pytest.raises(ValueError, match="--faces nothing is no name: known are RBM"):
        fuzz.main(["--faces", "nothing", "--out", str(tmp_path)])
    assert math.isnan(evaluate(NETWORK, torch.zeros(2, WIDTH), torch.zeros(2, 2)).accuracy)
