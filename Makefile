# One target per CI step. Every target makes .venv itself, with the pinned constraints.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

# The networks here are too small for a second thread, which only waits where other work wants the cores.
export OMP_NUM_THREADS := 1

.PHONY: help demo check-demo docs distill distill-demo distill-attack reference reference-distill reference-fidelity browser test vllm differential live fidelity fidelity-cpu robustness harden live-attack reference-robustness reference-router bench bench-live bench-peers bench-router routebench routebench-bound routebench-fresh routebench-loads routebench-all train-routebench tune-routebench tune-routebench-loads tune-routebench-tail reference-routebench reliability memory many-routers served fuzz parity plugs sweeps golden lint types clean
help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## Train a bandit and a PPO agent and compare them with today's routers (10 minutes).
	$(BIN)/routegym-train experiment=demo_train
	$(BIN)/routegym-train experiment=demo_train agent=lodestar_quick total_timesteps=4000
	$(BIN)/routegym-evaluate experiment=demo
	@echo "Table, results and plots: runs/demo/evaluation. To try next:"
	@echo "  $(BIN)/routegym-evaluate experiment=demo name=stale cluster.scrape_interval_s=10   # stale metrics"
	@echo "  $(BIN)/routegym-train --help    and CONTRIBUTING.md to add a policy of your own"

check-demo: $(VENV)/.installed  ## Hold the last demo's result against what the README promises.
	$(BIN)/python -m tests.benchmarks.check_demo

reference:  ## Keep the last demo's table and picture as those that the README shows.
	mkdir -p runs/reference/demo
	cp runs/demo/evaluation/table.md runs/demo/evaluation/summary.json runs/demo/evaluation/ttft_over_time.png \
	  runs/reference/demo/

DISTILLED := mooncake lodestar azure fast_slow
DISTILLED_ATTACKED := mooncake lodestar
distill: $(VENV)/.installed  ## Distil what learns online in four of RouteBench's scenarios to readable rules (half an hour).
	for scenario in $(DISTILLED); do \
	  $(BIN)/python -m agents.distill experiment=bench/$$scenario policy=marginal_delay name=distill/$$scenario \
	    tuned=runs/reference/routebench/tuned.json tuned_for=$$scenario@80 \
	    'seeds=$${scenario.seeds.test}' 'warmup_s=$${scenario.warmup_s}' num_rounds=2 num_taught=4000 \
	    students.formula.max_depth=0 students.formula.num_rules=2 students.tree.num_rules=2 \
	    '~agent@rules.smg_least_load' +agent@rules.lmetric=lmetric +agent@rules.slo_slack=slo_slack \
	    +agent@rules.llmd_affinity=llmd_affinity || exit 1; \
	done

distill-demo: $(VENV)/.installed  ## Distil what make demo trained before, and LinUCB, to readable rules (half an hour).
	$(BIN)/routegym-train experiment=demo_train agent=linucb total_timesteps=4000
	for agent in maskable_ppo lodestar_quick linucb; do \
	  $(BIN)/python -m agents.distill run=runs/demo/$$agent-0 name=distill/$$agent +measured.part=test \
	    +measured.num_requests=3840 'seeds=[57,69,73,97,99]' || exit 1; \
	done

distill-attack: $(VENV)/.installed  ## Attack two teachers, and play what was found on the rules distilled from them (minutes).
	for scenario in $(DISTILLED_ATTACKED); do \
	  $(BIN)/python -m adversary.report experiment=robustness/distilled_$$scenario || exit 1; \
	done

reference-distill:  ## Keep the last distillation, and the last attack on it, as those that the README shows.
	mkdir -p runs/reference/distill
	for scenario in $(DISTILLED); do \
	  cp runs/distill/$$scenario/distill/table.md runs/reference/distill/$$scenario.md || exit 1; \
	done
	for scenario in $(DISTILLED_ATTACKED); do \
	  cp runs/distilled_$$scenario/robustness/table.md runs/reference/distill/$${scenario}_attacked.md || exit 1; \
	done

reference-fidelity:  ## Keep the table of the last fidelity run as the one that the README shows.
	mkdir -p runs/reference/fidelity
	cp runs/fidelity/fidelity/table.md runs/fidelity/fidelity/fidelity.json runs/fidelity/fidelity/fidelity.png \
	  runs/reference/fidelity/

browser:  ## Install the browser in which the report is tested, where it is missing and this is root.
	@if test ! -x /usr/bin/chromium || test ! -x /usr/bin/chromedriver; then \
	  if test "$$(id -u)" = 0 && command -v apt-get > /dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends chromium chromium-driver > /dev/null; \
	  else \
	    echo "No /usr/bin/chromium and chromedriver: the report is not tested in a browser (run make browser as root)"; \
	  fi; \
	fi

test: $(VENV)/.installed browser  ## Run the tests, on as many as four cores.
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: $(VENV)/.installed-docs  ## Make the documentation in build/site, its tutorials run (a minute or two).
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# What pip would choose, so that it need not: without torchvision, torchaudio and torchcodec, whose wheels want a
# CUDA build of torch and break the import of vLLM, which does without them. Compiled here, once: the servers'
# processes would each compile it again where PYTHONDONTWRITEBYTECODE is set.
.venv-vllm/.installed: constraints-vllm.txt
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	if nvidia-smi > /dev/null 2>&1; then \
	  .venv-vllm/bin/python -m pip install --quiet vllm==0.32.0; \
	else \
	  .venv-vllm/bin/python -m pip install --quiet --no-compile --no-deps --requirement constraints-vllm.txt; \
	fi
	env -u PYTHONDONTWRITEBYTECODE .venv-vllm/bin/python -m compileall -qq -j 0 .venv-vllm/lib || true
	.venv-vllm/bin/python -c 'import vllm.entrypoints.openai.api_server'
	touch $@

vllm: .venv-vllm/.installed  ## Install vLLM in an environment of its own; for CPUs where there is no GPU.

differential: $(VENV)/.installed vllm  ## Compare the emulator with vLLM's own scheduler, step by step.
	$(BIN)/python -m pytest -s tests/differential/test_vllm.py

live: $(VENV)/.installed vllm  ## Test against real vLLM servers, which it starts and ends.
	$(BIN)/python -m pytest -m live tests/envs/live

fidelity: $(VENV)/.installed vllm  ## Compare the emulator with real vLLM servers on modelled GPUs (half an hour).
	$(BIN)/python -m envs.live.serve kind=modelled profile=h100_llama-3.1-8b,l40s_llama-3.1-8b time_scale=4 \
	  max_model_len=16384 -- $(BIN)/routegym-fidelity experiment=fidelity

fidelity-cpu: $(VENV)/.installed vllm  ## The same with the tiny model on this CPU, which is calibrated first.
	$(BIN)/python -m envs.live.serve kind=cpu port=8471 directory=runs/live -- $(BIN)/python -m envs.live.calibrate \
	  url=http://127.0.0.1:8471 name=cpu_tiny max_num_seqs=16 output=runs/live/cpu_tiny.json
	$(BIN)/python -m envs.live.serve kind=cpu count=2 profile=runs/live/cpu_tiny.json directory=runs/live -- \
	  $(BIN)/routegym-fidelity experiment=fidelity_cpu

robustness: $(VENV)/.installed  ## Attack eighteen routers and report how they bear it (an hour).
	$(BIN)/routegym-train experiment=robustness/train
	$(BIN)/routegym-train experiment=robustness/train agent=lodestar_quick total_timesteps=4000
	$(BIN)/routegym-train experiment=robustness/train agent=linucb total_timesteps=4000
	$(BIN)/python -m adversary.report experiment=robustness/report

harden: $(VENV)/.installed  ## Train LinUCB under attack and see what it gains and costs (a quarter of an hour).
	$(BIN)/python -m adversary.harden experiment=robustness/harden
	$(BIN)/python -m adversary.harden experiment=robustness/harden_rl

live-attack: $(VENV)/.installed vllm  ## Replay an attack that was found in emulation on real vLLM servers.
	$(BIN)/python -m envs.live.serve kind=modelled profile=h100_llama-3.1-8b,l40s_llama-3.1-8b time_scale=4 \
	  max_model_len=16384 -- $(BIN)/python -m adversary.live experiment=robustness/live

STRONG := aibrix_prefix,dynamo_cost,llmd_affinity,llmd_token_load,llmd_weighted,llumnix,lmetric,slo_slack,smg_cache_aware,stack_load_aware
WEAKER := aibrix_least_latency,aibrix_load_balance,aibrix_preble,cache_aware,dual_map,dynamo_two_tier,least_in_flight,least_kv_cache,power_of_two,random,ray_prefix,round_robin,session_hash,smg_least_load,smg_prefix_hash,stack_prefix_aware,sticky_least_loaded,vllm_dp,vtc
LEARNED := marginal_delay
LEARNING := thompson,linucb,lodestar,predicted_latency,optimistic_ftrl,exp4
AT_80 := azure,dies_returns,equal@80,fast_slow@80,lodestar@80,mixed_64,mooncake@80,overload,prefix_10,prefix_30,prefix_50,prefix_70,routers_4,scrape_50ms,scrape_1s,scrape_10s,scrape_30s,servegen,shift_0_50,shift_5_50,throttled,weka
OTHER_LOADS := equal@60,equal@95,fast_slow@60,fast_slow@95,lodestar@60,lodestar@95,mooncake@60,mooncake@95
# The suite's ten test streams of each scenario, and ten more: P99 differs by a few percent, which ten do not show.
FRESH := 10,11,12,13,14,15,16,17,18,19
STREAMS := 0,1,2,3,4,5,6,7,8,9,$(FRESH)
CONSTANTS := runs/reference/routebench/tuned
BENCHMARK := -m agents.benchmark name=routebench reference=aibrix_prefix 'tuned={tuned: $(CONSTANTS).json, tuned_p99: $(CONSTANTS)_p99.json}'
routebench: $(VENV)/.installed  ## Run RouteBench at 80 % load: what learns against the ten strongest rules, six tuned too (an hour and a half).
	$(BIN)/python $(BENCHMARK) policy=[$(STRONG),$(LEARNED)] scenarios=[$(AT_80)] seeds=[$(STREAMS)]

# What learns was made while the suite's ten test streams of each scenario had been looked at; these had not.
routebench-fresh: $(VENV)/.installed  ## The same on the ten streams alone that nobody had looked at (half of it).
	$(BIN)/python $(BENCHMARK) policy=[$(STRONG),$(LEARNED)] scenarios=[$(AT_80)] seeds=[$(FRESH)] report=fresh

routebench-loads: $(VENV)/.installed  ## The same at 60 and 95 % load, in the four scenarios that have them, on ten streams (half an hour).
	$(BIN)/python $(BENCHMARK) +tuned.tuned_at_load=$(CONSTANTS)_at_load.json +tuned.tuned_p99_at_load=$(CONSTANTS)_p99_at_load.json \
	  policy=[$(STRONG),$(LEARNED)] scenarios=[$(OTHER_LOADS)] report=loads

# The bound takes minutes for a stream, where all others take seconds: one stream of each scenario. In weka's closed loop
# it takes half an hour, since what is sent there follows from what was decided.
routebench-bound: $(VENV)/.installed  ## The same with the bound, on one stream of each scenario (three hours more on one core).
	$(BIN)/python $(BENCHMARK) policy=[$(STRONG),$(LEARNED),clairvoyant] bound_seeds=[0] scenarios=[$(AT_80)] seeds=[$(STREAMS)]

# SB3's PPO after imitating marginal_delay, for each scenario by itself.
train-routebench: $(VENV)/.installed  ## Train PPO on each scenario of RouteBench (half an hour).
	for world in $(subst $(comma), ,$(subst @80,,$(AT_80))); do \
	  train="$(BIN)/routegym-train experiment=bench/$$world scenario.split=train name=routebench_rl/$$world"; \
	  $$train agent=imitation && $$train agent=maskable_ppo total_timesteps=20480 agent.critic_timesteps=6144 \
	    agent.warm_start=runs/routebench_rl/$$world/imitation-0 || exit 1; \
	done

routebench-all: train-routebench  ## RouteBench with every rule and learner at 80 % load, on two streams (an hour; it goes on where it was stopped).
	$(BIN)/python $(BENCHMARK) policy=[$(STRONG),$(WEAKER),$(LEARNED),$(LEARNING),imitation,maskable_ppo] \
	  +trained.imitation=runs/routebench_rl/SCENARIO/imitation-0 \
	  +trained.maskable_ppo=runs/routebench_rl/SCENARIO/maskable_ppo-0 scenarios=[$(AT_80)] seeds=[0,1] report=all

TUNED := aibrix_prefix,dynamo_cost,llmd_affinity,llmd_weighted,slo_slack,smg_cache_aware
TUNED_TAIL := dynamo_cost,llmd_affinity,slo_slack
comma := ,
space := $(subst ,, )
# The scrapes are the world of equal, whose constants they take.
WORLDS := $(addprefix bench/,$(filter-out scrape_%,$(subst $(comma), ,$(subst @80,,$(AT_80)))))
TUNE := -m agents.tune -m hydra/launcher=local scenario.split=tune
AT_WORLDS := experiment=$(subst $(space),$(comma),$(WORLDS))
AT_LOADS := scenario.load=60,95 experiment=bench/equal,bench/fast_slow,bench/lodestar,bench/mooncake
# As many streams for each: what has more constants than those of a rule, and less to gain by each, on a third stream.
RULES := num_trials=20 'seeds=[1000,1001]'
LEARNER := agent=$(LEARNED) num_trials=13 'seeds=[1000,1001,1002]'
# For the tail a request may care less for others: what is bought for the mean is paid for by the few that wait longest.
TAIL := objective=ttft_p99_s
CARELESS := +space.externality.low=0.0 +space.externality.high=1.0
GATHERED := --all-loads --same $(addsuffix =equal,scrape_50ms scrape_1s scrape_10s scrape_30s)
tune-routebench: $(VENV)/.installed  ## Tune rules and learners for RouteBench's scenarios, alike (hours; it can be stopped).
	$(BIN)/python $(TUNE) $(AT_WORLDS) name=tune agent=$(TUNED) $(RULES)
	$(BIN)/python $(TUNE) $(AT_WORLDS) name=tune $(LEARNER)
	$(BIN)/python -m agents.tuning.tuned runs/tune $(CONSTANTS).json $(GATHERED)

# Of rules, those whose P99 was within a tenth of the best when they were tuned for the mean; the others' was 1.8 times it.
tune-routebench-tail: $(VENV)/.installed  ## The same for P99 instead of the mean, of the three rules that come near the best in it.
	$(BIN)/python $(TUNE) $(AT_WORLDS) name=tune_p99 $(TAIL) agent=$(TUNED_TAIL) $(RULES)
	$(BIN)/python $(TUNE) $(AT_WORLDS) name=tune_p99 $(TAIL) $(LEARNER) $(CARELESS)
	$(BIN)/python -m agents.tuning.tuned runs/tune_p99 $(CONSTANTS)_p99.json $(GATHERED)

# What is tuned above is tuned at 80 % load.
tune-routebench-loads: $(VENV)/.installed  ## Both at 60 and 95 % load, in the four scenarios that have them (an hour).
	$(BIN)/python $(TUNE) $(AT_LOADS) name=tune_loads agent=$(TUNED) $(RULES)
	$(BIN)/python $(TUNE) $(AT_LOADS) name=tune_loads $(LEARNER)
	$(BIN)/python $(TUNE) $(AT_LOADS) name=tune_loads_p99 $(TAIL) agent=$(TUNED_TAIL) $(RULES)
	$(BIN)/python $(TUNE) $(AT_LOADS) name=tune_loads_p99 $(TAIL) $(LEARNER) $(CARELESS)
	$(BIN)/python -m agents.tuning.tuned runs/tune_loads $(CONSTANTS)_at_load.json
	$(BIN)/python -m agents.tuning.tuned runs/tune_loads_p99 $(CONSTANTS)_p99_at_load.json

reference-routebench:  ## Keep the last RouteBench as the one that the README shows.
	mkdir -p runs/reference/routebench
	cp $(addprefix runs/routebench/benchmark/,table.md summary.json profiles.png against_best_rule.png) \
	  runs/reference/routebench/
	for slice in fresh loads all; do cp runs/routebench/benchmark/$$slice/table.md runs/reference/routebench/$$slice.md; done

reference-robustness:  ## Keep the last robustness results as those that the README shows.
	mkdir -p runs/reference/robustness
	rm -f runs/reference/robustness/*.png
	cp $(addprefix runs/robustness/robustness/,table.md overview.png sweep_spoof.png attackers_world_100.png) \
	  runs/reference/robustness/
	cp runs/robustness/hardening/training.md runs/robustness/live/live.json runs/reference/robustness/
	cp runs/robustness_rl/hardening/training.md runs/reference/robustness/training_rl.md

reference-router:  ## Keep the last comparison of routers, and the last gain served, as those that the README shows.
	mkdir -p runs/reference/router
	cp runs/bench_router/table.md runs/served/served.json runs/reference/router/

bench: $(VENV)/.installed  ## Measure the emulator and the environment on one core.
	$(BIN)/python -m tests.benchmarks.bench_emulator
	$(BIN)/python -m tests.benchmarks.bench_env
	$(BIN)/python -m tests.benchmarks.bench_vector
	$(BIN)/python -m tests.benchmarks.bench_vector --threads 2
	$(BIN)/python -m tests.benchmarks.bench_start
	$(BIN)/python -m tests.benchmarks.bench_scale

bench-live: $(VENV)/.installed  ## Measure the client of live clusters, against stand-ins for vLLM.
	$(BIN)/python -m tests.benchmarks.bench_live

reliability: $(VENV)/.installed  ## Kill, hang and restart instances behind the router under 20,000 requests.
	$(BIN)/python -m tests.benchmarks.check_reliability

memory: $(VENV)/.installed  ## Watch the router's memory over a million requests (a quarter of an hour).
	$(BIN)/python -m tests.benchmarks.check_memory

many-routers: $(VENV)/.installed  ## Compare several routers before one fleet with one, in emulation, after make demo.
	$(BIN)/python -m tests.benchmarks.check_many_routers

served: $(VENV)/.installed vllm  ## Serve a policy trained in emulation to real vLLM servers: does its gain hold? (half an hour)
	$(BIN)/python -m tests.benchmarks.check_served

fuzz: $(VENV)/.installed  ## Fuzz what reads bytes of others (ten minutes).
	$(BIN)/python -m tests.benchmarks.fuzz

parity: $(VENV)/.installed  ## Compare exported policies with those that they were made of (ten minutes).
	$(BIN)/python -m tests.benchmarks.check_parity

bench-router: $(VENV)/.installed  ## Compare what routers cost, ours and others, in front of the same backends.
	$(BIN)/python -m tests.benchmarks.bench_router

bench-peers: $(VENV)/.installed  ## Compare speed with other simulators, each in an environment of its own.
	$(BIN)/python -m tests.benchmarks.bench_peers

plugs: $(VENV)/.installed  ## Run other routers with a bundle's plugs, each in an environment of its own.
	$(BIN)/python -m tests.agents.plugs.integration.run

golden: $(VENV)/.installed  ## Compare our rules with the real routers' choices, each router in an environment of its own.
	$(BIN)/python -m tests.agents.heuristics.golden.run

# On top of .venv: the launcher wants older versions of two packages than all else.
.venv-ray/.installed: $(VENV)/.installed constraints-ray.txt
	test -x .venv-ray/bin/python || $(BIN)/python -m venv .venv-ray
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > "$$(.venv-ray/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	.venv-ray/bin/python -m pip install --quiet --no-deps --requirement constraints-ray.txt
	touch $@

sweeps: .venv-ray/.installed  ## Sweep on a local Ray cluster, and by jobs as Slurm's (two minutes).
	.venv-ray/bin/python -m pytest -m sweeps tests/agents/test_sweeps.py

lint: $(VENV)/.installed  ## Check style and docstrings.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed  ## Check types.
	$(BIN)/mypy

clean:  ## Remove the environment and the caches.
	rm -rf $(VENV) .venv-vllm .venv-ray .venv-peers .venv-plugs-* .venv-golden-* .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
