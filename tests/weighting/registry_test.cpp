// SPDX-License-Identifier: Apache-2.0
// AnyWeighting gives what the method gives and copies deeply; methods and options by name, as text too; every wrong one gets its sentence.
#include <htl/weighting/built_in_methods.hpp>

#include <support/seeded.hpp>

#include <algorithm>
#include <cctype>
#include <set>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

class Registry : public Seeded {};

Tensor j3() { return at::tensor({1., 2., -1., 0., -2., 1., .5, 1., .5, -1., 3., -2.}, at::kDouble).view({3, 4}); }

TaskGradients gradients_of(const Tensor& jacobian) {
  TaskGradients result = task_gradients(jacobian, {1, jacobian.size(1) - 1});
  result.gramian.cores = {0};
  result.gramian.losses = at::tensor({2.0, 0.5, 1.0}, at::kDouble);
  return result;
}

/// A method of a user: with a name of its own, memory, and ears.
struct Listener {
  double loudness = 1.0;
  struct State {
    Tensor heard;
    template <class Visit>
    void fields(Visit&& visit) {
      visit("heard", heard);
    }
  };
  std::string name() const { return "listener"; }
  Tensor weights(const TaskGramian& gramian, State& state) const {
    return state.heard.defined() ? state.heard * loudness : at::ones({gramian.tasks()}, at::kDouble);
  }
  void observe(const Tensor& losses, State& state) const {
    if (!state.heard.defined()) state.heard = at::zeros_like(losses);
    state.heard.add_(losses);
  }
};
static_assert(LossObserver<Listener>);
static_assert(StatefulWeighting<AnyWeighting> && StatefulAggregator<AnyWeighting> && LossObserver<AnyWeighting> && BatchesWeighting<AnyWeighting>);
static_assert(GradientMethod<AnyWeighting> && GramianWeighting<AnyWeighting> && std::is_nothrow_move_constructible_v<AnyWeighting>);
static_assert(GramianWeighting<CRMOGM<AnyWeighting>> && std::convertible_to<CRMOGM<AnyWeighting>, AnyWeighting>);
static_assert(std::convertible_to<PCGrad, AnyWeighting> && !std::convertible_to<int, AnyWeighting> && !std::convertible_to<TaskGramian, AnyWeighting>);

/// The same steps by a method and by AnyWeighting around it.
template <class M>
void expect_same_bits(const M& method, const std::string& name) {
  SCOPED_TRACE(name);
  Random random(50);
  const AnyWeighting any = method;
  EXPECT_EQ(any.name(), name);
  EXPECT_EQ(any.sees_gradients(), GradientAggregator<M>);
  MethodMemory<M> memory = htl::detail::initial_state(method);
  AnyWeighting::State state, other = any.initial_state();
  for (int64_t k = 0; k < 4; ++k) {
    TaskGradients gradients = gradients_of(random.normal({3, 5}));
    gradients.gramian.step = k;
    const auto with_generator = [&] {
      gradients.gramian.generator = at::detail::createCPUGenerator(static_cast<uint64_t>(k));
      return gradients;
    };
    const SharedGradient mine = aggregate(method, with_generator(), memory), theirs = aggregate(any, with_generator(), state);
    ASSERT_EQ(mine.parts.size(), theirs.parts.size());
    for (size_t p = 0; p < mine.parts.size(); ++p) ASSERT_TRUE(same_bits(mine.parts[p].values, theirs.parts[p].values));
    if (mine.weights.defined()) {
      ASSERT_TRUE(same_bits(mine.weights, theirs.weights));
    }
    if constexpr (GramianWeighting<M>) {
      ASSERT_TRUE(same_bits(weights(any, with_generator().gramian, other), mine.weights));
    }
    if (k == 1) state = AnyWeighting::State(state);  // a copy goes on
    if (k == 2) other = AnyWeighting::State(other);
  }
}

TEST_F(Registry, AnyWeightingGivesTheMethodsBits) {
  expect_same_bits(Sum{}, "htl::Sum");
  expect_same_bits(PCGrad{}, "htl::PCGrad");
  expect_same_bits(CoreTask{.norm = NormReference::moving_average}, "htl::CoreTask");
  expect_same_bits(GradVac{}, "htl::GradVac");
  expect_same_bits(MoDo{}, "htl::MoDo");
  expect_same_bits(GradDrop{}, "htl::GradDrop");
  expect_same_bits(ExcessMTL{.eta = 0.5}, "htl::ExcessMTL");
  expect_same_bits(MoCo{}, "htl::MoCo");
  expect_same_bits(CRMOGM<GradVac>{}, "htl::CRMOGM<htl::GradVac>");
  expect_same_bits(Listener{}, "listener");
}

TEST_F(Registry, AnyWeightingTellsWhatTheMethodWants) {
  EXPECT_EQ(AnyWeighting(Sum{}).batches(), 1);
  EXPECT_EQ(AnyWeighting(MoDo{}).batches(), MoDo{}.batches());
  EXPECT_EQ(AnyWeighting(CRMOGM<AnyWeighting>{.inner = MoDo{}}).batches(), MoDo{}.batches());
  EXPECT_FALSE(AnyWeighting(Sum{}).observes());
  EXPECT_FALSE(AnyWeighting(CRMOGM<AnyWeighting>{.inner = Sum{}}).observes());
  for (const AnyWeighting& method :
       {AnyWeighting(Listener{.loudness = 2.0}), AnyWeighting(CRMOGM<AnyWeighting>{.inner = Listener{.loudness = 2.0}, .decay = 0.0})}) {
    EXPECT_TRUE(method.observes());
    AnyWeighting::State state;
    method.observe(at::tensor({1.0, 2.0, 3.0}, at::kDouble), state);
    method.observe(at::tensor({1.0, 1.0, 1.0}, at::kDouble), state);
    EXPECT_TRUE(same_bits(method.weights(gradients_of(j3()).gramian, state), at::tensor({4.0, 6.0, 8.0}, at::kDouble)));
  }
  AnyWeighting::State nothing;
  AnyWeighting(Sum{}).observe(at::ones({3}, at::kDouble), nothing);
  EXPECT_TRUE(nothing.empty());
}

TEST_F(Registry, CopiesOfMethodsAndMemoriesAreIndependent) {
  AnyWeighting method(CoreTask{.alpha = 0.5}, "mine");
  AnyWeighting copy = method;
  copy.get_if<CoreTask>()->alpha = 0.25;
  EXPECT_EQ(method.get_if<CoreTask>()->alpha, 0.5);
  EXPECT_EQ(std::as_const(copy).get_if<CoreTask>()->alpha, 0.25);
  EXPECT_EQ(copy.name(), "mine");
  EXPECT_EQ(copy.named("yours").name(), "yours");
  EXPECT_EQ(copy.get_if<Sum>(), nullptr);
  copy = method;
  EXPECT_EQ(copy.get_if<CoreTask>()->alpha, 0.5);
  const AnyWeighting& itself = copy;
  copy = itself;
  EXPECT_EQ(copy.get_if<CoreTask>()->alpha, 0.5);

  const AnyWeighting listener = Listener{};
  AnyWeighting::State first;
  listener.observe(at::ones({3}, at::kDouble), first);
  AnyWeighting::State second = first, third;
  third = first;
  listener.observe(at::ones({3}, at::kDouble), first);
  const auto heard = [](AnyWeighting::State& state) {
    Tensor result;
    state.fields([&](const char*, Tensor& field) { result = field; });
    return result[0].item<double>();
  };
  EXPECT_EQ(heard(first), 2.0);
  EXPECT_EQ(heard(second), 1.0);
  EXPECT_EQ(heard(third), 1.0);
  const AnyWeighting::State moved = std::move(third);
  EXPECT_FALSE(moved.empty());
}

TEST_F(Registry, InitialStateNamesTheMethodsFieldsBeforeTheFirstStep) {
  const auto names = [](const AnyWeighting& method) {
    std::string result;
    AnyWeighting::State state = method.initial_state();
    state.fields([&](const char* name, Tensor&) { result += (result.empty() ? "" : " ") + std::string(name); });
    return result;
  };
  EXPECT_EQ(names(Sum{}), "");
  EXPECT_EQ(names(CoreTask{}), "core_norms task_norms");
  EXPECT_EQ(names(MoCo{}), "buffers touched weights calls");
  EXPECT_EQ(names(DBMTL{}), "buffers touched calls");
  EXPECT_EQ(names(ExcessMTL{}), "squares baseline calls log_weights");
  EXPECT_EQ(names(CRMOGM<AnyWeighting>{.inner = CoreTask{}}), "weights known inner/core_norms inner/task_norms");
  EXPECT_EQ(names(CRMOGM<AnyWeighting>{.inner = CRMOGM<AnyWeighting>{.inner = Listener{}}}), "weights known inner/weights inner/known inner/inner/heard");
  AnyWeighting::State empty;
  empty.fields([](const char* name, Tensor&) { ADD_FAILURE() << name; });
}

TEST_F(Registry, SaysWhatDoesNotFitTogether) {
  const TaskGradients gradients = gradients_of(j3());
  AnyWeighting::State state;
  EXPECT_TRUE(contains(sentence_of([&] { AnyWeighting(GradDrop{}, "drop").weights(gradients.gramian, state); }),
                       "htl::AnyWeighting: method \"drop\" sees the task gradients themselves and has no weights of a Gramian; ask aggregate()"));
  AnyWeighting(CoreTask{}).weights(gradients.gramian, state);
  EXPECT_TRUE(contains(sentence_of([&] { AnyWeighting(GradVac{}).weights(gradients.gramian, state); }),
                       "the state is the memory of another method than \"htl::GradVac\"; begin with initial_state()"));
  EXPECT_TRUE(contains(sentence_of([&] { AnyWeighting(Listener{}).observe(gradients.gramian.losses, state); }), "another method than \"listener\""));
}

// ---- text ------------------------------------------------------------------------------------------------------------------------------------------------

TEST_F(Registry, TextNamesAMethodWithItsOptions) {
  for (const std::string text : {"sum", "cagrad:c=0.4,rescale=1", "constant:weights=1;2;0.5", "constant:weights=1;", "pcgrad:order=random", "a:x=true,y=false",
                                 "core_task:clip_ratio=inf,alpha=1e-05", "cr_mogm:inner=cagrad,inner.c=0.4,decay=0.9", "a:b=c,b.d=e,b.d.f=-2.5,b.g=1;2"})
    EXPECT_EQ(spec_text(parse_spec(text)), text);
  const Spec method = parse_spec("x:number=-2.5e-3,flag=true,word=mean,list=1;inf;-3,inner=y,inner.c=4");
  EXPECT_EQ(method.name, "x");
  ASSERT_EQ(method.options.size(), 5U);
  EXPECT_EQ(std::get<double>(method.options["number"].value()), -0.0025);
  EXPECT_EQ(std::get<bool>(method.options["flag"].value()), true);
  EXPECT_EQ(std::get<std::string>(method.options["word"].value()), "mean");
  EXPECT_EQ(std::get<std::vector<double>>(method.options["list"].value()), (std::vector<double>{1.0, std::numeric_limits<double>::infinity(), -3.0}));
  const Spec& inner = *std::get<std::shared_ptr<const Spec>>(method.options["inner"].value());
  EXPECT_EQ(inner.name, "y");
  EXPECT_EQ(std::get<double>(inner.options["c"].value()), 4.0);
  EXPECT_EQ(std::get<std::string>(parse_spec("x:a=nan").options["a"].value()), "nan");  // no number
  EXPECT_EQ(std::get<std::string>(parse_spec("x:a=1e999").options["a"].value()), "1e999");
  EXPECT_EQ(spec_text({"x", {{"a", {1.0, 2.0}}, {"b", "word"}, {"c", Spec{"y", {{"d", 1}}}}, {"e", true}}}), "x:a=1;2,b=word,c=y,c.d=1,e=true");
}

TEST_F(Registry, TextThatNamesNoMethodGetsASentence) {
  const auto says = [](const std::string& text) { return sentence_of([&] { parse_spec(text); }); };
  EXPECT_TRUE(contains(says(""), "htl::parse_spec: expected NAME or NAME:option=value,option=value, got \"\""));
  EXPECT_TRUE(contains(says(":c=1"), "expected NAME or"));
  EXPECT_TRUE(contains(says("c=1"), "expected NAME or"));
  EXPECT_TRUE(contains(says("cagrad:"), "expected option=value after \"cagrad:\", got \"\""));
  EXPECT_TRUE(contains(says("cagrad:c"), "got \"c\" in \"cagrad:c\""));
  EXPECT_TRUE(contains(says("cagrad:c="), "got \"c=\""));
  EXPECT_TRUE(contains(says("cagrad:c=1,"), "got \"\" in"));
  EXPECT_TRUE(contains(says("cagrad:=1"), "the name of an option before \"=1\""));
  EXPECT_TRUE(contains(says("cagrad:c=1,c=2"), "the option \"c\" is there twice"));
  EXPECT_TRUE(contains(says("x:w=1;b"), "expected numbers between \";\", got \"b\""));
  EXPECT_TRUE(contains(says("x:w=1;;2"), "got \"\""));
  EXPECT_TRUE(contains(says("x:inner.c=1"), "expected inner=NAME before \"inner.c\""));
  EXPECT_TRUE(contains(says("x:inner=1,inner.c=1"), "expected inner=NAME before"));
  EXPECT_TRUE(contains(says("x:inner=y,inner.=1"), "the name of an option before"));
  EXPECT_TRUE(contains(sentence_of([] { Options({{"c", 1.0}, {"c", 2.0}}); }), "\"c\" is there twice"));
}

// ---- options and registry ---------------------------------------------------------------------------------------------------------------------------------

TEST_F(Registry, OptionsAreReadByTypeAndRange) {
  enum class Word { one, two };
  MethodRegistry registry;
  double number = 0.0;
  int64_t integer = 0;
  bool flag = false;
  Word word = Word::one;
  std::vector<double> list;
  std::optional<int64_t> position;
  registry.add("m", [&](OptionReader& options) {
    number = options.number("number", 0.5, {.low = 0.0, .high = 1.0, .open_high = true});
    integer = options.integer("integer", 3, {.low = 1.0});
    flag = options.flag("flag", true);
    word = options.choice<Word>("word", {{"one", Word::one}, {"2", Word::two}}, Word::one);
    list = options.numbers("list", {7.0}, {.low = 0.0});
    position = options.position("position");
    return AnyWeighting(Sum{});
  });
  const auto make = [&](const Options& options) { return sentence_of([&] { registry.make("m", options); }); };
  EXPECT_EQ(make({}), "no error");
  EXPECT_EQ(number, 0.5);
  EXPECT_EQ(integer, 3);
  EXPECT_TRUE(flag);
  EXPECT_EQ(word, Word::one);
  EXPECT_EQ(list, std::vector<double>{7.0});
  EXPECT_FALSE(position);
  EXPECT_EQ(make({{"number", 0}, {"integer", 9}, {"flag", false}, {"word", 2}, {"list", {1.0, 2.0}}, {"position", 1}}), "no error");
  EXPECT_EQ(number, 0.0);
  EXPECT_EQ(integer, 9);
  EXPECT_FALSE(flag);
  EXPECT_EQ(word, Word::two);
  EXPECT_EQ(list, (std::vector<double>{1.0, 2.0}));
  EXPECT_EQ(position, 1);
  EXPECT_EQ(make({{"list", 4.0}}), "no error");
  EXPECT_EQ(list, std::vector<double>{4.0});
  const std::string who = "htl::MethodRegistry: weighting \"m\", option ";
  EXPECT_TRUE(contains(make({{"number", 1.0}}), who + "\"number\": expected a number in [0, 1), got 1"));
  EXPECT_TRUE(contains(make({{"number", -0.1}}), "in [0, 1), got -0.1"));
  EXPECT_TRUE(contains(make({{"number", std::nan("")}}), "in [0, 1), got nan"));
  EXPECT_TRUE(contains(make({{"number", std::numeric_limits<double>::infinity()}}), who + "\"number\": expected a finite number, got inf"));
  EXPECT_TRUE(contains(make({{"number", "half"}}), "got half"));
  EXPECT_TRUE(contains(make({{"number", true}}), "got true"));
  EXPECT_TRUE(contains(make({{"number", {1.0, 2.0}}}), "got 1;2"));
  EXPECT_TRUE(contains(make({{"integer", 2.5}}), who + "\"integer\": expected a whole number ≥ 1, got 2.5"));
  EXPECT_TRUE(contains(make({{"integer", 0}}), "≥ 1, got 0"));
  EXPECT_TRUE(contains(make({{"integer", 1e300}}), "whole number"));
  EXPECT_TRUE(contains(make({{"flag", 1}}), who + "\"flag\": expected true or false, got 1"));
  EXPECT_TRUE(contains(make({{"word", "tow"}}), who + "\"word\": expected one of \"one\", \"2\", got \"tow\"; did you mean \"one\"?"));
  EXPECT_TRUE(contains(make({{"list", {1.0, -1.0}}}), who + "\"list\": expected numbers ≥ 0, got 1;-1"));
  EXPECT_TRUE(contains(make({{"list", {1.0, std::numeric_limits<double>::infinity()}}}), who + "\"list\": expected finite numbers, got 1;inf"));
  EXPECT_TRUE(contains(make({{"list", "x"}}), "expected numbers, got x"));
  EXPECT_TRUE(contains(make({{"position", -1}}), "whole number ≥ 0, got -1"));
  EXPECT_TRUE(contains(make({{"numbr", 1.0}}),
                       "htl::MethodRegistry: weighting \"m\" has no option \"numbr\"; did you mean \"number\"? Options: \"number\", \"integer\""));
  EXPECT_EQ((OptionRange{.low = 0.0, .open_low = true}.text()), "> 0");
  EXPECT_EQ((OptionRange{.high = 2.0}.text()), "≤ 2");
  EXPECT_EQ(OptionRange{}.text(), "that is finite");
  EXPECT_FALSE(OptionRange{}.contains(std::numeric_limits<double>::infinity()));
  EXPECT_TRUE((OptionRange{.low = 1.0, .infinite = true}.contains(std::numeric_limits<double>::infinity())));
}

TEST_F(Registry, UsersAddMethodsAndWrapThem) {
  MethodRegistry registry = built_in_methods();
  registry.add("mine", [](OptionReader& options) { return AnyWeighting(Listener{.loudness = options.number("loudness", 1.0)}); });
  EXPECT_FALSE(built_in_methods().contains("mine"));
  EXPECT_TRUE(registry.contains("mine"));
  const AnyWeighting method = registry.make("mine", {{"loudness", 3.0}});
  EXPECT_EQ(method.name(), "mine");
  EXPECT_EQ(method.get_if<Listener>()->loudness, 3.0);
  const AnyWeighting wrapped = registry.make(parse_spec("cr_mogm:inner=mine,inner.loudness=2"));
  EXPECT_EQ(wrapped.get_if<CRMOGM<AnyWeighting>>()->inner.get_if<Listener>()->loudness, 2.0);
  EXPECT_TRUE(contains(sentence_of([&] { registry.add("mine", [](OptionReader&) { return AnyWeighting(Sum{}); }); }),
                       "htl::MethodRegistry: there is a method \"mine\" already; take another name, or give NameTaken::replace"));
  registry.add(
      "mine", [](OptionReader&) { return AnyWeighting(Mean{}); }, NameTaken::replace);
  EXPECT_NE(registry.make("mine").get_if<Mean>(), nullptr);
  for (const std::string name : {"", "a:b", "a=b", "a,b", "a b"})
    EXPECT_TRUE(contains(sentence_of([&] { registry.add(name, [](OptionReader&) { return AnyWeighting(Sum{}); }); }), "expected a name without"));
  EXPECT_TRUE(
      contains(sentence_of([&] { registry.make("pcgrd"); }), "htl::MethodRegistry: unknown weighting \"pcgrd\"; did you mean \"pcgrad\"? Known: \"sum\", "));
}

TEST_F(Registry, BuiltInMethodsHaveTheirOptions) {
  const MethodRegistry registry = built_in_methods();
  const auto make = [&](const std::string& text) { return registry.make(parse_spec(text)); };
  EXPECT_EQ(make("constant:weights=1;2").get_if<Constant>()->values, (std::vector<double>{1.0, 2.0}));
  const AnyWeighting any_core = make("core_task:core=2,alpha=0.5,gamma=0.1,clip_ratio=inf,norm=after,several_cores=own,average_decay=0.8");
  const auto& core = *any_core.get_if<CoreTask>();
  EXPECT_EQ(core.core, 2);
  EXPECT_EQ(core.alpha, 0.5);
  EXPECT_EQ(core.gamma, 0.1);
  EXPECT_EQ(core.clip_ratio, std::numeric_limits<double>::infinity());
  EXPECT_EQ(core.norm, NormReference::after_projection);
  EXPECT_EQ(core.several_cores, SeveralCores::own);
  EXPECT_EQ(core.average_decay, 0.8);
  EXPECT_EQ(make("core_task:norm=moving_average").get_if<CoreTask>()->norm, NormReference::moving_average);
  const AnyWeighting any_balance = make("metabalance:core=1,relax=0.6,beta=0.5");
  EXPECT_EQ(any_balance.get_if<MetaBalance>()->core, 1);
  EXPECT_EQ(any_balance.get_if<MetaBalance>()->relax, 0.6);
  EXPECT_EQ(any_balance.get_if<MetaBalance>()->beta, 0.5);
  EXPECT_EQ(make("pcgrad:order=descending,reduction=mean").get_if<PCGrad>()->order, Order::descending);
  EXPECT_EQ(make("pcgrad:order=descending,reduction=mean").get_if<PCGrad>()->reduction, Reduction::mean);
  EXPECT_EQ(make("gradvac:beta=0.1,order=random").get_if<GradVac>()->beta, 0.1);
  EXPECT_EQ(make("gradvac:order=ascending").get_if<GradVac>()->order, Order::ascending);
  for (const std::string text : {"pcgrad:given=2;0;1", "pcgrad:given=2;0;1,order=given"}) {
    EXPECT_EQ(make(text).get_if<PCGrad>()->order, Order::given);
    EXPECT_EQ(make(text).get_if<PCGrad>()->given, (std::vector<int64_t>{2, 0, 1}));
  }
  EXPECT_EQ(make("gradvac:given=1;0").get_if<GradVac>()->order, Order::given);
  EXPECT_EQ(make("imtl_g:cutoff=0.01").get_if<IMTLG>()->cutoff, 0.01);
  EXPECT_EQ(make("config:cutoff=0.01").get_if<ConFIG>()->cutoff, 0.01);
  const AnyWeighting aligned = make("aligned_mtl:scale=rmse,preference=mean,cutoff=0.5");
  EXPECT_EQ(aligned.get_if<AlignedMTL>()->scale, AlignedScale::rmse);
  EXPECT_EQ(aligned.get_if<AlignedMTL>()->preference, Preference::mean);
  EXPECT_EQ(aligned.get_if<AlignedMTL>()->cutoff, 0.5);
  EXPECT_EQ(make("krum:byzantine=1,selected=2").get_if<Krum>()->byzantine, 1);
  EXPECT_EQ(make("krum:byzantine=1,selected=2").get_if<Krum>()->selected, 2);
  EXPECT_EQ(make("mgda:scale=tasks").get_if<MGDA>()->scale, WeightScale::tasks);
  const AnyWeighting cagrad = make("cagrad:c=0.3,rescale=2,scale=tasks");
  EXPECT_EQ(cagrad.get_if<CAGrad>()->c, 0.3);
  EXPECT_EQ(cagrad.get_if<CAGrad>()->rescale, 2);
  EXPECT_EQ(cagrad.get_if<CAGrad>()->scale, WeightScale::tasks);
  EXPECT_EQ(make("pe_ltr:bounds=0.1;0.2").get_if<PELTR>()->bounds, (std::vector<double>{0.1, 0.2}));
  EXPECT_EQ(make("pe_ltr:bound=0.2").get_if<PELTR>()->bound, 0.2);
  EXPECT_EQ(make("sdmgrad:lambda=0.6").get_if<SDMGrad>()->lambda, 0.6);
  EXPECT_EQ(make("modo:gamma=0.2,rho=0.4").get_if<MoDo>()->gamma, 0.2);
  EXPECT_EQ(make("modo:gamma=0.2,rho=0.4").get_if<MoDo>()->rho, 0.4);
  EXPECT_EQ(make("upgrad:preference=sum").get_if<UPGrad>()->preference, Preference::sum);
  EXPECT_EQ(make("dualproj:preference=sum").get_if<DualProj>()->preference, Preference::sum);
  EXPECT_EQ(make("nash_mtl:max_norm=2,update_every=5").get_if<NashMTL>()->max_norm, 2.0);
  EXPECT_EQ(make("nash_mtl:max_norm=2,update_every=5").get_if<NashMTL>()->update_every, 5);
  EXPECT_EQ(make("fairgrad:alpha=2").get_if<FairGrad>()->alpha, 2.0);
  EXPECT_EQ(make("gradnorm:alpha=1,learning_rate=0.1").get_if<GradNorm>()->alpha, 1.0);
  EXPECT_EQ(make("gradnorm:alpha=1,learning_rate=0.1").get_if<GradNorm>()->learning_rate, 0.1);
  const AnyWeighting famo = make("famo:learning_rate=0.1,weight_decay=0.2,max_norm=3,min_losses=0.1;0.2");
  EXPECT_EQ(famo.get_if<FAMO>()->learning_rate, 0.1);
  EXPECT_EQ(famo.get_if<FAMO>()->weight_decay, 0.2);
  EXPECT_EQ(famo.get_if<FAMO>()->max_norm, 3.0);
  EXPECT_EQ(famo.get_if<FAMO>()->min_losses, (std::vector<double>{0.1, 0.2}));
  EXPECT_EQ(make("graddrop:leak=0.2").get_if<GradDrop>()->leak, 0.2);
  EXPECT_EQ(make("trimmed_mean:trim=2").get_if<TrimmedMean>()->trim, 2);
  const AnyWeighting excess = make("excess_mtl:eta=1,warmup=3,scale=one");
  EXPECT_EQ(excess.get_if<ExcessMTL>()->eta, 1.0);
  EXPECT_EQ(excess.get_if<ExcessMTL>()->warmup, 3);
  EXPECT_EQ(excess.get_if<ExcessMTL>()->scale, WeightScale::one);
  const AnyWeighting any_moco = make("moco:beta=0.1,sigma=0.2,gamma=0.3,sigma_gamma=0.4,rho=0.6,normalize=false,map=projection");
  const auto& moco = *any_moco.get_if<MoCo>();
  EXPECT_EQ((std::vector<double>{moco.beta, moco.sigma, moco.gamma, moco.sigma_gamma, moco.rho}), (std::vector<double>{0.1, 0.2, 0.3, 0.4, 0.6}));
  EXPECT_FALSE(moco.normalize);
  EXPECT_EQ(moco.map, SimplexMap::projection);
  EXPECT_EQ(make("db_mtl:beta=0.1,sigma=0.2").get_if<DBMTL>()->beta, 0.1);
  EXPECT_EQ(make("db_mtl:beta=0.1,sigma=0.2").get_if<DBMTL>()->sigma, 0.2);
  const AnyWeighting mogm = make("cr_mogm:inner=pcgrad,inner.order=descending,decay=0.5,initial=1;2");
  EXPECT_EQ(mogm.get_if<CRMOGM<AnyWeighting>>()->decay, 0.5);
  EXPECT_EQ(mogm.get_if<CRMOGM<AnyWeighting>>()->initial, (std::vector<double>{1.0, 2.0}));
  EXPECT_EQ(mogm.get_if<CRMOGM<AnyWeighting>>()->inner.get_if<PCGrad>()->order, Order::descending);
}

TEST_F(Registry, BuiltInMethodsAreAllThereAndWork) {
  const MethodRegistry registry = built_in_methods();
  EXPECT_EQ(
      quoted(registry.names()),
      R"("sum", "mean", "constant", "random", "core_task", "metabalance", "pcgrad", "gradvac", "imtl_g", "aligned_mtl", "config", "krum", "mgda", "cagrad", )"
      R"("pe_ltr", "sdmgrad", "modo", "upgrad", "dualproj", "nash_mtl", "fairgrad", "gradnorm", "famo", "graddrop", "trimmed_mean", "excess_mtl", "moco", )"
      R"("db_mtl", "cr_mogm")");
  const std::set<std::string> see_gradients = {"graddrop", "trimmed_mean", "excess_mtl", "moco", "db_mtl"}, listen = {"famo"},
                              three_batches = {"modo", "sdmgrad"};
  Random random(51);
  for (const std::string& name : registry.names()) {
    SCOPED_TRACE(name);
    Options options;
    if (name == "constant") options.set("weights", {1.0, 2.0, 3.0});
    if (name == "cr_mogm") options.set("inner", "core_task");
    const AnyWeighting method = registry.make(name, options);
    EXPECT_EQ(method.name(), name);
    EXPECT_EQ(method.sees_gradients(), see_gradients.contains(name));
    EXPECT_EQ(method.observes(), listen.contains(name));
    EXPECT_EQ(method.batches(), three_batches.contains(name) ? 3 : 1);
    AnyWeighting::State state = method.initial_state();
    for (int64_t k = 0; k < 3; ++k) {
      const SharedGradient result = method.aggregate(gradients_of(random.normal({3, 5})), state);
      ASSERT_EQ(result.parts.size(), 2U);
      for (const SharedGradient::Part& part : result.parts) EXPECT_TRUE(at::isfinite(part.values).all().item<bool>());
      EXPECT_GT(result.parts[1].values.abs().sum().item<double>(), 0.0);
      method.observe(at::ones({3}, at::kDouble), state);
    }
    options.set("wrng", 1.0);
    EXPECT_TRUE(contains(sentence_of([&] { registry.make(name, options); }), "weighting \"" + name + "\" ", "\"wrng\""));
  }
}

TEST_F(Registry, BuiltInMethodsAreInThePropertySuites) {
  // those of this program, as "Solvers/PropertiesTest/CAGradWide": the method's name without underscores begins the last part
  const auto letters = [](std::string text) {
    std::erase(text, '_');
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
  };
  std::vector<std::string> suites;
  const ::testing::UnitTest& program = *::testing::UnitTest::GetInstance();
  for (int i = 0; i < program.total_test_suite_count(); ++i) {
    const std::string name = program.GetTestSuite(i)->name();
    if (name.find("/PropertiesTest/") != std::string::npos) suites.push_back(letters(name.substr(name.rfind('/') + 1)));
  }
  const auto tested = [&](const std::string& name) {
    return std::any_of(suites.begin(), suites.end(), [&](const std::string& suite) { return suite.starts_with(letters(name)); });
  };
  for (const std::string& name : built_in_methods().names())
    EXPECT_TRUE(tested(name)) << "add \"" << name << "\" to properties_test.cpp or solver_properties_test.cpp";
  EXPECT_FALSE(tested("listener"));
}

TEST_F(Registry, BuiltInMethodsRefuseWhatIsOutOfRange) {
  const MethodRegistry registry = built_in_methods();
  for (const std::string text : {"core_task:alpha=-1",
                                 "core_task:gamma=2",
                                 "core_task:clip_ratio=0.5",
                                 "core_task:norm=middle",
                                 "core_task:average_decay=1",
                                 "core_task:core=-1",
                                 "core_task:core=0.5",
                                 "core_task:alpha=inf",
                                 "metabalance:relax=2",
                                 "metabalance:beta=1",
                                 "pcgrad:order=sorted",
                                 "pcgrad:reduction=max",
                                 "pcgrad:given=0.5;1",
                                 "pcgrad:reduction=sum,reduction.c=3",
                                 "cagrad:scale=tasks,scale.typo=1",
                                 "pcgrad:given=-1;0",
                                 "gradvac:given=a",
                                 "gradvac:beta=2",
                                 "imtl_g:cutoff=1",
                                 "aligned_mtl:scale=max",
                                 "aligned_mtl:preference=1",
                                 "config:cutoff=-1",
                                 "krum:byzantine=-1",
                                 "krum:selected=0",
                                 "mgda:scale=two",
                                 "cagrad:c=-1",
                                 "cagrad:rescale=3",
                                 "cagrad:rescale=true",
                                 "pe_ltr:bounds=1;2",
                                 "pe_ltr:bound=-1",
                                 "sdmgrad:lambda=-1",
                                 "modo:gamma=-1",
                                 "modo:rho=x",
                                 "upgrad:preference=max",
                                 "dualproj:preference=max",
                                 "nash_mtl:max_norm=0",
                                 "nash_mtl:update_every=0",
                                 "fairgrad:alpha=-1",
                                 "gradnorm:alpha=-1",
                                 "gradnorm:learning_rate=-1",
                                 "famo:learning_rate=-1",
                                 "famo:weight_decay=-1",
                                 "famo:max_norm=0",
                                 "graddrop:leak=2",
                                 "trimmed_mean:trim=-1",
                                 "trimmed_mean:trim=0.5",
                                 "excess_mtl:eta=0",
                                 "excess_mtl:warmup=-1",
                                 "excess_mtl:scale=two",
                                 "moco:beta=0",
                                 "moco:sigma=-1",
                                 "moco:gamma=-1",
                                 "moco:sigma_gamma=-1",
                                 "moco:rho=-1",
                                 "moco:normalize=0",
                                 "moco:map=simplex",
                                 "db_mtl:beta=1",
                                 "db_mtl:sigma=-1",
                                 "cr_mogm:inner=sum,decay=2",
                                 "cr_mogm:inner=1",
                                 "constant:weights=a"}) {
    const Spec method = parse_spec(text);
    EXPECT_TRUE(contains(sentence_of([&] { registry.make(method); }), "htl::MethodRegistry: weighting \"" + method.name + "\", option \"", "\": expected "))
        << text;
  }
  EXPECT_TRUE(contains(sentence_of([&] { registry.make("constant"); }), "weighting \"constant\" expects numbers as the option \"weights\", got none"));
  EXPECT_TRUE(contains(sentence_of([&] { registry.make("constant", {{"weight", 1.0}}); }), "has no option \"weight\"; did you mean \"weights\"?"));
  EXPECT_TRUE(contains(sentence_of([&] { registry.make("cr_mogm"); }), "weighting \"cr_mogm\" expects a method as the option \"inner\", got none"));
  EXPECT_TRUE(contains(sentence_of([&] { registry.make(parse_spec("cr_mogm:decay=0.9")); }), "expects a method as the option \"inner\", got none"));
  EXPECT_TRUE(contains(sentence_of([&] {
                         registry.make("cr_mogm", {{"inner", "graddrop"}});
                       }),
                       "weighting \"cr_mogm\" averages weights, and \"graddrop\" has none, since it sees the gradients themselves"));
  EXPECT_TRUE(contains(sentence_of([&] { registry.make("cr_mogm", {{"inner", "nothing"}}); }), "unknown weighting \"nothing\""));
  EXPECT_TRUE(contains(sentence_of([&] { registry.make(parse_spec("cr_mogm:inner=cagrad,inner.d=1")); }),
                       "weighting \"cagrad\" has no option \"d\"; did you mean \"c\"?"));
  EXPECT_TRUE(contains(sentence_of([&] { registry.make(parse_spec("pe_ltr:bounds=0.1;0.2,bound=0.1")); }), "one bound for all, got both"));
  EXPECT_TRUE(contains(sentence_of([&] { registry.make(parse_spec("sum:c=1")); }), "weighting \"sum\" takes no options, got \"c\""));
}

}  // namespace
